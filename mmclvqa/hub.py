"""The Hugging Face hub, from which models and tokenizers are read that are not in the data root."""

from __future__ import annotations

from functools import cache


@cache
def hub_answers(name: str) -> bool:
    """Return whether the hub can be asked for a model, by one request.

    Without a connection, transformers would repeat its request for each file for 25 seconds.
    """
    from huggingface_hub import file_exists
    from huggingface_hub.errors import HfHubHTTPError

    try:
        file_exists(name, "config.json")
    except HfHubHTTPError:
        return True
    except Exception:  # without a connection, of a class that depends on the version of huggingface_hub
        return False
    return True
