"""The files of a Hugging Face model, in a folder or on the hub."""

import functools
import os
from collections.abc import Callable

from promptbias.utils.errors import UserError

# (names in order of preference) -> path of the first that is there, None if none is
Find = Callable[..., str | None]


def in_folder(folder: str) -> Find:
    """Files of a folder."""

    def find(*names: str) -> str | None:
        return next((path for name in names if os.path.exists(path := os.path.join(folder, name))), None)

    return find


def on_hub(repo: str) -> Find:
    """Files of a model on the hub: from its cache where they are there, otherwise fetched.

    What is in the cache is not compared with the hub, so a run repeated computes with the same weights and needs no
    network.

    Raises:
        UserError: huggingface_hub is not installed; and, when a file is asked for, it is not in the cache and cannot be
            fetched.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
    except ImportError as error:
        raise UserError(f"hf:{repo} needs huggingface_hub ({error}); pip install 'promptbias[export]'") from error

    @functools.cache
    def listing() -> list[str]:
        return [file.rfilename for file in HfApi().model_info(repo).siblings or ()]

    def find(*names: str) -> str | None:
        try:
            cached = [try_to_load_from_cache(repo, name) for name in names]
            if any(isinstance(path, str) for path in cached):
                return next(path for path in cached if isinstance(path, str))
            wanted = next((name for name in names if name in listing()), None)
            return None if wanted is None else hf_hub_download(repo, wanted)
        except Exception as error:  # the hub's own, httpx's or requests', by its version
            raise UserError(f"{_what_failed(repo, error)}; {_where(names)}") from error

    return find


def _what_failed(repo: str, error: Exception) -> str:
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "GatedRepoError"):
        return f"the hub has no model {repo}, or only for those who are logged in (`hf auth login`)"
    if kind == "HFValidationError":
        return f'"{repo}" is not a name on the hub, such as openai/clip-vit-base-patch16'
    if kind == "OfflineModeIsEnabled":
        return f"{repo} is not in the cache of the hub, and HF_HUB_OFFLINE forbids to fetch it"
    return f"{repo} cannot be fetched from the hub ({kind}: {(str(error).strip() or 'no answer').splitlines()[0]})"


def _where(names: tuple[str, ...]) -> str:
    from huggingface_hub import constants

    return (
        f"{' or '.join(names)} was looked for in {constants.HF_HUB_CACHE} (HF_HOME names another place) and at "
        f"{constants.ENDPOINT} (HF_ENDPOINT names a mirror); or give a folder with these files instead of hf:<name>"
    )
