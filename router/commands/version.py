"""`corral --version`. Run by router/__main__.py, which would start slower if it knew the version by itself."""

from importlib.metadata import version

if __name__ == "__main__":
    print(f"corral {version('corral')}")
