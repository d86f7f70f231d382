"""Run in a notebook's kernel before its first cell: notes which files under a watched directory it writes.

``SPARSINGLIB_WATCH`` names the directories, ``SPARSINGLIB_WRITTEN`` the file that takes one path a line. Without them
it does nothing. An audit hook sees every file however it is written, so that no figure has to announce itself.
"""


def _watch() -> None:
    import os
    import sys

    folders = tuple(name + os.sep for name in os.environ.get("SPARSINGLIB_WATCH", "").split(os.pathsep) if name)
    notes = os.environ.get("SPARSINGLIB_WRITTEN", "")
    seen: set[str] = set()

    def note(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            written = os.fspath(arguments[0]) if arguments[2] & (os.O_WRONLY | os.O_RDWR) else ""
        elif event == "os.rename":
            written = os.fspath(arguments[1])
        else:
            return
        path = os.path.abspath(os.fsdecode(written)) if written else ""
        if path.startswith(folders) and path not in seen:
            seen.add(path)
            with open(notes, "a", encoding="utf-8") as file:
                file.write(path + "\n")

    if folders and notes:
        sys.addaudithook(note)


_watch()
del _watch
