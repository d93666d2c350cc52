"""`qwen3-audio doctor`"""

import argparse

from qwen3_audio.commands.arguments import read_settings
from qwen3_audio.commands.serve import open_port
from qwen3_audio.doctor import ADVICE, Finding, Level, examine
from qwen3_audio.errors import StartError
from qwen3_audio.settings import Settings


def run(arguments: argparse.Namespace) -> int:
    """Print all findings; 0 if the server would start, 1 if something keeps it from starting."""
    try:
        settings = read_settings(arguments)
        findings = [
            *examine(settings, arguments.model_path, is_demo=arguments.demo),
            _examine_port(settings),
        ]
    except StartError as error:
        findings = [Finding(Level.PROBLEM, f"settings: {error}")]
    for finding in findings:
        print(f"{finding.level:>7}  {finding.text}")
    print("\nIf something else is wrong:")
    for advice in ADVICE:
        print(f"  - {advice}")
    num_problems = sum(finding.level is Level.PROBLEM for finding in findings)
    print(f"\n{num_problems} problems: it would not start" if num_problems else "\nIt would start")
    return 1 if num_problems else 0


def _examine_port(settings: Settings) -> Finding:
    where = f"{settings.host} port {settings.port}"
    mode = "no keys (local mode)" if settings.is_local else "keys"
    try:
        open_port(settings.host, settings.port).close()
    except StartError as error:
        return Finding(Level.PROBLEM, f"address: {error}")
    return Finding(Level.OK, f"address: {where}, {mode}")
