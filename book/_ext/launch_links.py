"""Sphinx extension: every chapter links to its copies on Colab and Binder, where the repository has an address.

The address is `repository.url` of the configuration, or GENTANGLE_REPOSITORY, which goes first. Without one no page has
such a link. The copies stand on a branch of their own, at the same paths: book/publish.py makes them.
"""

import os
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

from gentangle.errors import InputError

VARIABLE = "GENTANGLE_REPOSITORY"
BRANCH = "launch"
#: As the theme names them; it joins each to the repository, the branch and the chapter's path.
HOSTS = {
    "binderhub_url": "https://mybinder.org",
    "colab_url": "https://colab.research.google.com",
    "notebook_interface": "jupyterlab",
}
#: Colab opens notebooks of GitHub alone. The name goes into a shell's command: nothing but these characters.
ADDRESS = re.compile(r"https://github\.com/\w[\w-]*/\w[\w.-]*", re.ASCII)


def repository_address(configured: str) -> str:
    """The address that the environment variable gives, else the configured one; empty where there is none."""
    return checked_address(os.environ.get(VARIABLE) or configured)


def checked_address(given: str) -> str:
    """An address as the links spell it; an empty one stays empty.

    Raises:
        InputError: it is not the address of a repository that Colab and Binder can open.
    """
    address = given.strip().rstrip("/").removesuffix(".git")
    if address and not ADDRESS.fullmatch(address):
        raise InputError(
            f"The repository's address is {given!r}, expected https://github.com/OWNER/NAME: "
            f"mend `repository: {{url: ...}}` in book/_config.yml, or {VARIABLE}."
        )
    return address


def link_copies(app: Sphinx, config: Config) -> None:
    """Give the theme what it makes launch links from, or nothing: with links but no address it fails."""
    options = config.html_theme_options
    try:
        address = repository_address(options.get("repository_url") or "")
    except InputError as error:
        raise ExtensionError(str(error)) from error
    launch = HOSTS if address else {}
    config.html_theme_options = options | {
        "repository_url": address,
        "repository_branch": BRANCH,
        "launch_buttons": launch,
    }


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", link_copies)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
