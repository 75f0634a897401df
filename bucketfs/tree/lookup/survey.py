"""Which names are free in a directory too large to be listed for a lookup: a page of it tells.

Who writes many files mostly names them in order. One page of the listing that begins just before a
name that is looked up shows it and, if it is free, many that come next. Where that did not help, as
names came in no order, the next names are asked for one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

from cachetools import LRUCache

from bucketfs import clock
from bucketfs.tree.core.inode import NEVER, Directory
from bucketfs.tree.core.names import FOLDER_SUFFIX
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.merge import Listing, Merge, sort

#: Seconds after which a survey is tried again though the last one did not help.
AGAIN = 30.0


@dataclass(slots=True)
class _Survey:
    """What one page has shown.

    Attributes:
        name: For which it was asked.
        listed: Of the directory then: what sets it anew says that names may be there unseen.
        began: Monotonic time.
        behind / until: It shows all names behind the first, up to the last; None: to the end.
        helped: It has answered for another name.
    """

    name: str
    listed: float
    began: float
    behind: str
    until: str | None
    helped: bool = False

    def covers(self, name: str) -> bool:
        """Whether it shows all there could be of a name: file, directory and ``name_$folder$``."""
        return self.behind < name and (self.until is None or name + FOLDER_SUFFIX <= self.until)


class Surveys:
    """Remembers the latest survey of each directory, of which all names have been known."""

    def __init__(self, state: TreeState) -> None:
        self._state = state
        self._latest: LRUCache[Directory, _Survey] = LRUCache(256)

    def free_since(self, directory: Directory, name: str) -> float:
        """Monotonic time at which a name that is not known was seen to be free; NEVER."""
        survey = self._latest.get(directory)
        if survey is None or survey.listed != directory.listed or not survey.covers(name):
            return NEVER
        if survey.began <= self._state.freshness.forgotten:
            return NEVER
        survey.helped |= name != survey.name
        return survey.began

    def is_worth_it(self, directory: Directory) -> bool:
        """Whether to ask for a page rather than for a name."""
        latest = self._latest.get(directory)
        return latest is None or latest.helped or clock.monotonic() - latest.began > AGAIN

    async def ask(self, directory: Directory, name: str) -> None:
        """Have a page listed that shows a name, if it is there.

        Raises:
            StoreError: The bucket could not be asked.
        """
        began, listed, behind = clock.monotonic(), directory.listed, name[:-1]
        prefix = self._state.prefix(directory)
        with self._state.asking(directory) as since:
            page = await self._state.files.store.list(prefix, start_after=prefix + behind)
            if not self._state.is_at(directory, prefix):
                return
            listing = Listing()
            sort(listing, prefix, page)
            Merge(self._state, directory, began, since).add(listing)
        last = max([*(info.key for info in page.objects), *page.prefixes], default=prefix)
        until = None if page.next_token is None else last[len(prefix) :]
        self._latest[directory] = _Survey(name, listed, began, behind, until)
        child = directory.children.get(name)
        if child is not None:
            child.checked = max(child.checked, began)
            self._state.freshness.check_heard(child, began)
