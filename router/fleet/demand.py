"""Who wants a model to be loaded, since when, and how long it stays when nobody does. Pure: times come in as arguments.

Owned by replicaset.ReplicaSet, which tells lifecycle.plan of it. Wanted it is by the requests that use it, by an
operator, and at the start of the gateway. Invariant: since when it is wanted was noted when it first was, and holds
until it is loaded or nobody wants it any more, however many come and go meanwhile.
"""

from router.config import ModelConfig
from router.fleet.lifecycle import NEVER


class Demand:
    """For one model. Times are in seconds of one clock."""

    def __init__(self, model: ModelConfig, now: float) -> None:
        self.autoload = True  # whether users make it load
        self.num_users = 0
        self.leaves = False  # it was told to go
        self.last_used = now
        self.since: float | None = None  # when it began to be wanted, if it is
        self._asked = False  # for, by name
        self._yields = False
        self.follow(model)

    def follow(self, model: ModelConfig) -> None:
        """Other settings."""
        self._is_loadable, self._pin = model.path is not None, model.pin
        self._ttl = self._keep_alive = NEVER if model.ttl is None else model.ttl

    @property
    def is_there(self) -> bool:
        """Whether it is to be loaded, or to stay."""
        return self._is_loadable and (self._asked or (self.autoload and self.num_users > 0))

    @property
    def yields(self) -> bool:
        """Whether it is loaded only if nothing has to go for it."""
        return self._yields and not self.num_users

    @property
    def keep_alive(self) -> float:
        """Seconds without users after which it goes."""
        return NEVER if self._pin else self._keep_alive

    @property
    def is_idleness_news(self) -> bool:
        """Whether anything may follow from its having no users."""
        return self.leaves or self._keep_alive < NEVER

    def note(self, now: float) -> None:
        """If it is wanted, it is so from now on at the latest."""
        if self.since is None and self.is_there:
            self.since = now

    def enter(self) -> bool:
        """One more user. Whether that is news."""
        self.num_users += 1
        return self.num_users == 1 or (self.since is None and self.is_there)

    def leave(self, now: float, keep_alive: float | None) -> None:
        """One user less; `keep_alive` holds until the next one leaves, None: as configured."""
        self.num_users -= 1
        self.last_used = now
        self._keep_alive = self._ttl if keep_alive is None else keep_alive
        if not self.is_there:
            self.since = None

    def ask(self, *, yields: bool) -> None:
        """It is to be loaded, used or not."""
        self._asked, self._yields = True, yields

    def ask_to_go(self) -> None:
        """It is to be unloaded; those who wait for it make it come back."""
        self._asked, self.leaves = False, True

    def give_up(self) -> None:
        """Nobody waits for it any more, unless somebody asks again."""
        self._asked = self._yields = False
        self.since = None

    def loaded(self) -> None:
        """Its workers were started."""
        self._asked, self.leaves, self.since = False, False, None

    def unloaded(self) -> None:
        """Its workers were told to end; who uses it now waits from now on."""
        self.leaves, self.since = False, None
