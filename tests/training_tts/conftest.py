from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from made_lexicon import build_made_up_lexicon

from training.tts.lexicon import Lexicon


@pytest.fixture(scope="session")
def lexicon() -> Lexicon:
    return build_made_up_lexicon()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def work(lexicon: Lexicon, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with the lexicon's data and nothing trained."""
    folder = tmp_path_factory.mktemp("work")
    lexicon.save(folder / "lexicon")
    return folder
