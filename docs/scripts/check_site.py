"""python docs/scripts/check_site.py [site]

Fail if a page of the built site loads a script, a style, a font, an image or a frame from the network. Links that a
reader may follow are no such thing.
"""

import re
import sys
from pathlib import Path

# What a browser fetches unasked: attributes of tags in pages, and addresses in style sheets.
LOADED = {
    "*.html": r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|<link\b(?=[^>]*rel=[\"']?(?:stylesheet|preload|preconnect|icon))[^>]*href=[\"']?(?:https?:)?//[^\"'\s>]+",
    "*.css": r"(?:url\(|@import\s+)[\"']?(?:https?:)?//[^\"')\s]+",
}


def loaded_from_network(site: Path) -> list[str]:
    """What the pages and style sheets of a site load from elsewhere, each with its file."""
    return [
        f"{path.relative_to(site)}: {found}"
        for pattern, expression in LOADED.items()
        for path in sorted(site.rglob(pattern))
        for found in re.findall(expression, path.read_text(encoding="utf-8"))
    ]


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "site")
    if not (folder / "index.html").is_file():
        sys.exit(f"{folder} holds no site: run `make docs`.")
    if loaded := loaded_from_network(folder):
        sys.exit("\n".join(["the site loads from the network:", *loaded]))
