"""Document 2 from its first line to its last, in one shell: what every block said and wrote."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from code_blocks import Block, read_blocks, run_text

PAGE = Path(__file__).parent / "multi_user_tts_server.md"
ADMIN_TOKEN = "YOUR_ADMIN_TOKEN"
TRANSCRIPT = "The quick, brown fox jumped over the lazy dog"
HELLO = "Hello from the TTS server."
LINES = ("First line.", "Second line.", "Third line.")

CREATE = "1) Admin creates a user"
INVITE = "2) Admin creates an invite code for that user"
EXCHANGE = "3) User exchanges invite code for an API key (server returns it once)"
CLONE = "Clone voice from reference audio"
DESIGN = "Design a new voice (description → reference sample)"
LIST = "List voices / download reference sample"
TTS = "`/tts` (single)"
BATCH = "`/batchtts` (ZIP)"
STORED = "Stored generations"
USAGE = "Usage stats"

BLOCKS = {block.name: block for block in read_blocks(PAGE)}
RUN = (CREATE, INVITE, EXCHANGE, CLONE, DESIGN, LIST, TTS, BATCH, STORED, USAGE)
NOT_RUN = {
    "Run": "Docker",
    f"{EXCHANGE} #2": "a header, not a command",
}
# The document stores nothing before it asks for something stored: the same line with `store`.
STORE = (
    BLOCKS[TTS]
    .text.partition("\n\n")[0]
    .replace('\\"store\\":false', '\\"store\\":true')
    .replace("out.wav", "kept.wav")
    .replace("tts_headers.txt", "kept_headers.txt")
)
NAME_IT = "GENERATION_ID=$(sed -n 's/^X-Generation-Id: //p' kept_headers.txt | tr -d '\\r')"
END = "%% end of a block %%"


@dataclass(frozen=True)
class Walk:
    """The document, run once against a server."""

    address: str
    folder: Path  # where its commands ran
    said: dict[str, str]  # by the name of the block

    def value(self, block: str, name: str) -> str:
        """What a block's `echo "NAME=$NAME"` said."""
        match = re.fullmatch(rf"{name}=(\S+)\n", self.said[block])
        assert match, self.said[block]
        return match[1]

    @property
    def voice_id(self) -> int:
        return int(self.value(CLONE, "VOICE_ID"))

    def ask(self, method: str, path: str, *, token: str | None = None, **options: Any) -> Any:
        """A further request, as the document's user unless there is another token."""
        bearer = token or self.value(EXCHANGE, "API_KEY")
        headers = {"Authorization": f"Bearer {bearer}"}
        url = f"{self.address}{path}"
        return httpx2.request(method, url, headers=headers, timeout=60, **options)


def walk_through(address: str, folder: Path, recording: Path) -> Walk:
    shutil.copy(recording, folder / "ref.mp3")
    texts = [_text(BLOCKS[name], address) for name in RUN]
    shell = f"\necho '{END}'\n".join(texts)
    said = run_text(shell, "bash", folder).split(f"{END}\n")
    return Walk(address, folder, dict(zip(RUN, said, strict=True)))


def _text(block: Block, address: str) -> str:
    before = f"{STORE}\n{NAME_IT}\n" if block.name == STORED else ""
    return before + block.at(address)
