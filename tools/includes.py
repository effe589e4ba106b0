"""Who includes what, for the checks of tools/: our own files by quoted path, everything else by its name."""

import functools
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("server", "core", "kernels", "tests")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def sources(*endings, folders=FOLDERS):
    """Paths of our own files, relative to the root, sorted."""
    files = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    names = (path.relative_to(ROOT).as_posix() for path in files if path.suffix in endings)
    return sorted(name for name in names if "/target/" not in name)


@functools.cache
def includes(name):
    """What the file includes itself, in the order of its lines."""
    return INCLUDE.findall((ROOT / name).read_text())


@functools.cache
def closure(name):
    """Every file of ours and every foreign header that the file includes, itself or through our headers."""
    seen, todo = {name}, [name]
    while todo:
        current = todo.pop()
        if (ROOT / current).is_file():
            new = [other for other in includes(current) if other not in seen]
            seen.update(new)
            todo.extend(new)
    return seen


def uses_torch(name):
    """Whether compiling the file needs libtorch."""
    return any(header.startswith(("ATen/", "torch/", "c10/")) for header in closure(name))
