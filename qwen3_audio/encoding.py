"""Speech as bytes while it is made: one continuous stream, encoded beside the event loop."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from qwen3_audio.audio.encode import Encoder
from qwen3_audio.speaking import Spoken
from qwen3_audio.types import Pcm


async def encode_sound(
    first: Pcm | Spoken,
    sound: AsyncGenerator[Pcm | Spoken],
    build_encoder: Callable[[], Encoder],
    *,
    is_cheap: bool,
) -> AsyncGenerator[bytes | Spoken]:
    """The bytes of one stream, then the Spoken that ended it. `first` came out of `sound` before.

    Cheap is what is a conversion and not worth a worker thread.
    """
    item = first
    async with aclosing(sound):
        with await asyncio.to_thread(build_encoder) as encoder:
            while not isinstance(item, Spoken):
                if is_cheap:
                    data = encoder.write(item)
                else:
                    data = await asyncio.to_thread(encoder.write, item)
                if data:
                    yield data
                item = await anext(sound)
            data = await asyncio.to_thread(encoder.finish)
            if data:
                yield data
    yield item
