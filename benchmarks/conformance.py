"""Run timm's own tests/test_models.py, unmodified, on names registered by `ssia_zoo.register`.

    python benchmarks/conformance.py --work runs/conformance

This downloads the sdist of the installed timm once, registers `<arch>_ssia` for each architecture listed below, and
runs the tests of each timm family in a child process. A second call runs the families that are missing or failed.
results/conformance.jsonl has one line per family. Intermediate features and pretrained loading are not covered here but
by tests/models/test_features.py and tests/models/test_registry.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import timm
import tyro
from recording import RESULTS, ROOT, read_results

# Commonly used architectures, in their smaller sizes.
ARCHS = """
resnet10t resnet18 resnet26 resnet34 resnet50 resnet50d resnet101 resnext50_32x4d wide_resnet50_2 seresnet50
ecaresnet26t resnetv2_50 resnetv2_50d_gn mobilenetv3_small_050 mobilenetv3_small_100 mobilenetv3_large_100 fbnetv3_b
lcnet_050 lcnet_100 mobilenetv2_100 mobilenetv4_conv_small mobilenetv4_conv_medium efficientnet_b0 efficientnet_b1
efficientnet_lite0 tf_efficientnetv2_b0 tinynet_e mnasnet_100 mixnet_s regnetx_002 regnety_002 regnety_008 regnetz_b16
convnext_atto convnext_femto convnext_tiny convnextv2_atto convnextv2_nano vit_tiny_patch16_224 vit_small_patch16_224
vit_base_patch16_224 vit_base_patch32_224 vit_little_patch16_reg4_gap_256 deit_tiny_patch16_224 deit_small_patch16_224
deit3_small_patch16_224 swin_tiny_patch4_window7_224 swin_s3_tiny_224 swinv2_cr_tiny_ns_224 beit_base_patch16_224
eva02_tiny_patch14_224 cait_xxs24_224 xcit_nano_12_p16_224 pit_ti_224 pit_s_224 levit_128s levit_256 mobilevit_xxs
mobilevit_s mobilevitv2_050 repvgg_a0 gernet_s mobileone_s0 coatnet_0_rw_224 maxvit_tiny_rw_224 poolformer_s12
caformer_s18 mixer_s32_224 resmlp_12_224 gmlp_ti16_224 edgenext_xx_small edgenext_small fastvit_t8 efficientformer_l1
efficientformerv2_s0 densenet121 vgg11 vgg16_bn dpn48b dla34 hrnet_w18_small hardcorenas_a ghostnet_050 ghostnet_100
pvt_v2_b0 twins_svt_small tiny_vit_5m_224 inception_next_atto mambaout_femto starnet_s1 repvit_m1 rexnet_100
res2net50_26w_4s skresnet18 nf_resnet26 hgnetv2_b0 cspresnet50 davit_tiny focalnet_tiny_srf gcvit_xxtiny
coat_lite_tiny efficientvit_b0 efficientvit_m0
""".split()  # noqa: SIM905  # easier to read than a list

_PLUGIN = '''"""Register names before timm's tests list the models; written by benchmarks/conformance.py."""
import json, os
import ssia_zoo
for arch in json.loads(os.environ["SSIA_ZOO_ARCHS"]):
    ssia_zoo.register(arch)
'''


@dataclass(frozen=True)
class Arguments:
    """Run timm's own model tests on names registered by ssia_zoo.register."""

    work: Path = Path("runs/conformance")
    """folder for timm's sdist and the logs"""
    results: Path = RESULTS / "conformance.jsonl"
    """results, one JSON line per family; families that passed are not run again"""
    families: tuple[str, ...] = ()
    """families to run; all by default"""
    timeout: int = 3600
    """seconds allowed per family"""


def main(arguments: Arguments) -> int:
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    tests = timm_tests(arguments.work.resolve())
    (arguments.work / "ssia_conformance_plugin.py").write_text(_PLUGIN)
    families: dict[str, list[str]] = defaultdict(list)
    for arch in ARCHS:
        families[timm.models._registry._model_to_module[arch]].append(arch)
    done = {r["family"]: r for r in read_results(arguments.results)}
    for family, archs in sorted(families.items()):
        if arguments.families and family not in arguments.families:
            continue
        if done.get(family, {}).get("archs") == archs and not done[family]["failed"]:
            continue
        result = run_family(tests, arguments, family, archs)
        done[family] = result
        lines = (json.dumps(r) for r in done.values())
        arguments.results.write_text("\n".join(lines) + "\n")
        print(json.dumps(result), flush=True)
    wanted = [done[family] for family in families if family in done]
    failed = [r for r in wanted if r["failed"] or not r["passed"]]
    print(
        f"{sum(len(r['archs']) for r in wanted)} of {len(ARCHS)} archs, {len(wanted)} of {len(families)} families: "
        f"{sum(r['passed'] for r in wanted)} passed, {sum(r['failed'] for r in wanted)} failed, "
        f"{sum(r['skipped'] for r in wanted)} skipped"
    )
    return bool(failed)


def timm_tests(work: Path) -> Path:
    """Return the tests/ folder of the installed timm version, downloaded with its sdist."""
    unpacked = work / f"timm-{timm.__version__}"
    if not (unpacked / "tests").is_dir():
        wanted = f"timm=={timm.__version__}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "timm", wanted]
        subprocess.run(pip, cwd=work, check=True)
        with tarfile.open(work / f"{unpacked.name}.tar.gz") as archive:
            archive.extractall(work, filter="data")
    return unpacked / "tests"


def run_family(tests: Path, arguments: Arguments, family: str, archs: list[str]) -> dict[str, object]:
    environment = {
        **os.environ,
        "GITHUB_ACTIONS": "1",  # makes timm skip models that need much memory
        "HF_HUB_OFFLINE": "1",
        "SSIA_ZOO_ARCHS": json.dumps(archs),
        "PYTHONPATH": f"{arguments.work.resolve()}{os.pathsep}{ROOT}",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "ssia_conformance_plugin", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tests.parent), "-k", "_ssia", "--tb=line", str(tests / "test_models.py")]
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=arguments.timeout, check=False
        )
        output = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        output = f"timed out after {error.timeout} s: 1 failed"
    (arguments.work / f"{family}.log").write_text(output)
    counts = {
        kind: int(match[1]) if (match := re.search(rf"(\d+) {kind}", output.splitlines()[-1])) else 0
        for kind in ("passed", "failed", "skipped", "error")
    }
    return {
        "family": family,
        "archs": archs,
        "passed": counts["passed"],
        "failed": counts["failed"] + counts["error"],
        "skipped": counts["skipped"],
        "failures": re.findall(r"^FAILED \S+::(\S+)", output, re.MULTILINE),
        "seconds": round(time.monotonic() - start),
        "timm": timm.__version__,
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
