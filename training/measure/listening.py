"""Recognition alone: training.asr's own trials, over the product's engine."""

from qwen3_audio.types import ModelKind
from training.asr.evaluate import evaluate, missed_bounds
from training.measure.plan import Json, Plan
from training.measure.sound import shared_espeak


def measure_listening(plan: Plan) -> Json:
    figures = evaluate(plan.models[ModelKind.ASR], shared_espeak(), share=plan.share)
    return figures | {"missed": missed_bounds(figures)}
