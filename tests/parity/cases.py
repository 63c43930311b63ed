"""What the greedy oracle is asked: raw prompts and conversations. record_greedy.py sends them to the peer, once.

Invariant: texts are constants, the same on every machine; a case is found by its name, so names stay unique.
"""

from collections.abc import Mapping
from typing import Any

Conversation = list[dict[str, str]]

_HARBOUR = """\
The harbour woke before the town did. Long before the bakers lit their ovens, the boats came in on the tide with
their lamps still burning, and the gulls followed them in a loose white cloud. Old Maren kept the weighing house.
She had kept it for thirty-one years, and her mother had kept it before her, and in all that time nobody had ever
found an error in the ledger. Each basket was set on the iron scale, each number was called aloud, and each number
was written down twice: once in the large book that never left the room, and once on a slip of paper that the
fisherman carried home. "A number that is written once is a rumour," she used to say. "Written twice, it is a fact."

In the spring of that year a young man named Tobias came to learn the trade. He was quick with figures and slow with
people, which Maren considered the right way around. On his first morning he asked why the scale was tested with
three stones rather than with one. She showed him. The first stone weighed exactly ten pounds, the second exactly
twenty, and the third exactly thirty. "If the scale lies," she said, "it may lie about ten and about twenty, and
still tell the truth about thirty. But if it says that ten and twenty together are thirty, then it must at least be
consistent. After that we ask whether it is honest." Tobias wrote this down, twice.

By summer he could tell a cod from a coalfish in the dark by the sound it made on the boards. He learned that wet
rope is heavier than dry rope, that ice melts faster in a talking crowd, and that a captain who jokes about his
catch has usually had a poor night. He learned to read the sky over the northern breakwater, where the weather came
from, and to say nothing about it until he was asked. Most of all he learned to wait. The boats came when they came,
and the sea kept no timetable that anyone had ever seen.

Then, on the last day of September, the large book disappeared. It had lain on its oak stand in the evening, closed,
with the brass ruler across it, and in the morning there was only the ruler. Nothing else had been touched: not the
cash box, not the seals, not the three good lamps. Maren stood in the doorway for a while without a word. Then she
sent Tobias to every house in the harbour with one question, always the same, and told him to write the answers
down: "Do you still have your slips of paper?" For the book was gone, but every number in it had been written twice.
"""

_GOODS = ("salted cod", "lamp oil", "oak barrels", "wool", "iron nails", "rope", "rye flour", "candles", "tar", "glass")
_PORTS = ("Bergen", "Riga", "Lisbon", "Hull", "Antwerp", "Porto", "Danzig")


def _ledger(num_entries: int) -> str:
    lines = [
        f"{n:03d}. {_GOODS[n * 7 % 10]} from {_PORTS[n * 5 % 7]}: {n * 37 % 90 + 10} crates at {n * 53 % 40 + 5} silver"
        for n in range(1, num_entries + 1)
    ]
    return "Ledger of the weighing house\n\n" + "\n".join(lines) + "\n"


RAW: Mapping[str, str] = {
    "prose": "The old lighthouse keeper climbed the stairs slowly, one hand on the cold wall, and",
    "dialogue": '"You never told me that," said Anna, putting down her cup. "I thought you knew,"',
    "science": (
        "Photosynthesis is the process by which plants convert sunlight into chemical energy. In the first stage,"
    ),
    "history": "The printing press was invented in the fifteenth century. Its most important consequence was",
    "question": "Question: What is the capital of France?\nAnswer:",
    "one_word": "Hello",
    "one_letter": "A",
    "python": 'def fibonacci(n: int) -> int:\n    """Return the n-th Fibonacci number."""\n    if n < 2:\n',
    "c": "#include <stdio.h>\n\nint main(int argc, char **argv) {\n    for (int i = 0; i < 10; i++) {\n",
    "sql": "SELECT customers.name, SUM(orders.total)\nFROM customers\nJOIN orders ON",
    "json": '{"name": "Ada", "age": 36, "languages": ["English", "French"]}\n{"name": "Grace", "age":',
    "html": "<!DOCTYPE html>\n<html>\n  <head>\n    <title>My page</title>\n  </head>\n  <body>\n    <h1>",
    "list": "Ten things to take on a hike:\n1. Water\n2. A map\n3.",
    "counting": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,",
    "arithmetic": "12 + 7 = 19\n25 + 14 = 39\n31 + 48 = 79\n56 + 23 =",
    "table": "| Country | Capital |\n|---|---|\n| Italy | Rome |\n| Spain | Madrid |\n| Japan |",
    "repetition": "row, row, row your boat, row, row, row your boat, row, row,",
    "french": "Il était une fois, dans un petit village au bord de la mer, une jeune fille qui",
    "german": "Die Straßenbahn fährt über die Brücke, und die Fahrgäste sehen",
    "chinese": "人工智能正在改变世界。",
    "russian": "Москва — столица России, а Санкт-Петербург",  # noqa: RUF001
    "special_characters": (
        "Symbols: © ® ™ € £ ¥ § ¶ • … “quoted” ‘single’ — – 🙂🚀"  # noqa: RUF001
        " \t\ttabs\n\n\n   spaces  and\u00a0more:"
    ),
    "template_tokens": "<|im_start|>user\nWhat colour is the sky?<|im_end|>\n<|im_start|>assistant\n",
    "long_prose": _HARBOUR,
    "very_long_ledger": _ledger(98),
}

_TRANSLATOR = "You are a translator. Answer with the translation alone."
_PIRATE = "You are a pirate. You answer every question in the voice of a pirate captain."


def _user(text: str, *, system: str | None = None) -> Conversation:
    before = [{"role": "system", "content": system}] if system is not None else []
    return [*before, {"role": "user", "content": text}]


CHATS: Mapping[str, Conversation] = {
    "greeting": _user("Hello! Who are you?"),
    "fact": _user("What is the tallest mountain in the world?"),
    "explain": _user("Explain how a bicycle stays upright, in simple words."),
    "code_request": _user("Write a Python function that reverses a string."),
    "list_request": _user("Give me five ideas for a birthday present."),
    "short": _user("Hi"),
    "numbers": _user("What is 17 times 3?"),
    "whitespace": _user("  please   tell me a joke \n\n  "),
    "other_language": _user("Wie heißt die Hauptstadt von Österreich?"),
    "special_text": _user("What does <|im_end|> mean in a prompt? And {{ braces }} and \\n?"),
    "system_pirate": _user("Where is my treasure?", system=_PIRATE),
    "system_translator": _user("Good morning, my friend.", system=_TRANSLATOR + " Translate into French."),
    "system_empty": _user("Name three colours.", system=""),
    "two_turns": [
        *_user("My name is Clara and I live in Lyon."),
        {"role": "assistant", "content": "Nice to meet you, Clara! Lyon is a beautiful city."},
        {"role": "user", "content": "What is my name, and where do I live?"},
    ],
    "three_turns": [
        *_user("Let us count together. One.", system="You continue the count with a single word."),
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three."},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "Five."},
    ],
    "long_document": _user("Summarise this text in one sentence.\n\n" + _HARBOUR),
}

SAMPLED: tuple[str, ...] = ("prose", "list", "python")
SAMPLING: Mapping[str, Any] = {"temperature": 0.8, "seed": 42}
