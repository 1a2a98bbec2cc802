"""Importing it makes a process that of a person without the package, wherever that is installed."""

import sys


class Hide:
    """Nothing of the package may be found."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_multimodal":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Hide())
