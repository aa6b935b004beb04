"""The manifests of Kubernetes, JobSet and SkyPilot: against the schemas of those who read them, and run as they would be."""

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from training import LAUNCH, clean_environment, newest, train_arguments

from flax_s2s.runtime import cluster
from flax_s2s.runtime.places import TPU_PORT, Place

SCHEMAS = json.loads(Path(__file__).with_name("schemas.json").read_text())
KINDS = {"Job": "io.k8s.api.batch.v1.Job", "Service": "io.k8s.api.core.v1.Service", "JobSet": "JobSet"}


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((LAUNCH / name).read_text()))


def check(document: object, definition: str) -> None:
    """Raises `jsonschema.ValidationError` for a field that is wrong or unknown."""
    jsonschema.Draft202012Validator({**SCHEMAS, "$ref": f"#/$defs/{definition}"}).validate(document)


def check_skypilot(task: dict) -> None:
    """A task as SkyPilot checks it: resources and what is mounted apart."""
    check(task, "skypilot.task")
    check(task["resources"], "skypilot.resources")
    for mounted in task["file_mounts"].values():
        check(mounted, "skypilot.storage")


@pytest.mark.parametrize("name", ["k8s/job.yaml", "k8s/jobset.yaml", "k8s/decode.yaml"])
def test_a_manifest_fits_its_schema(name):
    found = documents(name)
    assert found and {"Job", "JobSet"} & {document["kind"] for document in found}
    for document in found:
        check(document, KINDS[document["kind"]])


def test_skypilots_task_fits_its_schema():
    (task,) = documents("skypilot.yaml")
    check_skypilot(task)


def paths(node: object, path: tuple = ()) -> list[tuple]:
    """Where in a document its mappings are."""
    found = [path] if isinstance(node, dict) else []
    for key, item in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        found += paths(item, (*path, key))
    return found


# What maps names of the user's own choice: any key may stand there.
OPEN = {"selector", "labels", "limits", "requests", "emptyDir", "file_mounts"}


@pytest.mark.parametrize("name", ["k8s/job.yaml", "k8s/jobset.yaml", "k8s/decode.yaml", "skypilot.yaml"])
def test_a_typo_anywhere_is_found(name):
    planted = 0
    for document in documents(name):
        for path in paths(document):
            if path and path[-1] in OPEN:
                continue
            broken = copy.deepcopy(document)
            place = broken
            for key in path:
                place = place[key]
            key = next(iter(place))
            place[f"{key}s"] = place.pop(key)
            with pytest.raises((jsonschema.ValidationError, KeyError)):  # KeyError: what is checked apart is not there
                check_skypilot(broken) if name == "skypilot.yaml" else check(broken, KINDS[document["kind"]])
            planted += 1
    assert planted >= 4


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "completions"), "2"),
        (("spec", "podFailurePolicy", "rules", 0, "onExitCodes", "values"), ["2"]),
        (("spec", "template", "spec", "containers", 0, "env", 1, "value"), 2),
        (("spec", "template", "spec", "containers", 0, "command"), "python"),
    ],
)
def test_a_wrong_type_is_found(path, value):
    broken = documents("k8s/job.yaml")[1]
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(broken, KINDS["Job"])


def job_of(name: str) -> tuple[dict, str, str]:
    """The Job of a manifest, its pods' name without the number, and their subdomain."""
    last = documents(name)[-1]
    if last["kind"] == "Job":
        return last["spec"], last["metadata"]["name"], documents(name)[0]["metadata"]["name"]
    (replicated,) = last["spec"]["replicatedJobs"]
    return replicated["template"]["spec"], f"{last['metadata']['name']}-{replicated['name']}-0", last["spec"]["network"]["subdomain"]


@pytest.mark.parametrize("name", ["k8s/job.yaml", "k8s/jobset.yaml"])
def test_a_manifest_agrees_with_itself(name):
    job, pods, subdomain = job_of(name)
    (container,) = job["template"]["spec"]["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert job["completions"] == job["parallelism"] == int(variables["JAX_NUM_PROCESSES"])
    assert variables["JAX_COORDINATOR_ADDRESS"] == f"{pods}-0.{subdomain}:{TPU_PORT}"
    assert cluster.find({**variables, "JOB_COMPLETION_INDEX": "1"}) == Place(
        "Kubernetes", variables["JAX_COORDINATOR_ADDRESS"], job["completions"], 1, 300.0
    )
    assert job["completionMode"] == "Indexed"
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy needs it
    rules = job["podFailurePolicy"]["rules"]
    assert {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule} == {container["name"]}
    assert [(rule["action"], rule["onExitCodes"]["values"]) for rule in rules if "onExitCodes" in rule] == [
        ("FailJob", [2]),
        ("Ignore", [75]),
    ]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["template"]["spec"]["volumes"]}


def test_each_pod_that_decodes_has_its_share():
    (document,) = documents("k8s/decode.yaml")
    job = document["spec"]
    (container,) = job["template"]["spec"]["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    shares = [cluster.find_share({**variables, "JOB_COMPLETION_INDEX": str(index)}) for index in range(job["completions"])]
    assert shares == [(index, job["completions"]) for index in range(job["completions"])]
    assert job["completionMode"] == "Indexed" and container["command"][:4] == ["python", "-m", "flax_s2s", "decode"]
    assert container["command"][-2:] == ["--shard", "auto"]
    codes = {rule["onExitCodes"]["values"][0]: rule["action"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule}
    assert codes == {2: "FailJob", 75: "Ignore"}
    assert {rule["onExitCodes"]["containerName"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule} == {
        container["name"]
    }


def test_the_service_leads_to_the_pods_of_the_job():
    service, job = documents("k8s/job.yaml")
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]


def test_skypilot_restarts_what_was_saved():
    (task,) = documents("skypilot.yaml")
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert task["run"].splitlines()[-1].startswith("exec ")  # or SIGTERM would end at the shell


def train_in(folder: Path, shells: list[tuple[str, dict[str, str]]]) -> None:
    """Runs a command per machine, in a folder, and waits for all."""
    started = [
        subprocess.Popen(["bash", "-c", shell], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for shell, environment in shells
    ]
    outputs = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(shells), outputs
    assert "2 x cpu in 2 process(es)" in outputs[0]


def local_address() -> str:
    """Here the names of pods and machines lead nowhere."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["k8s/job.yaml", "k8s/jobset.yaml"])
def test_pods_train_together(tmp_path, name):
    """The container's command and variables, with the number that Kubernetes gives each pod."""
    job, _, _ = job_of(name)
    (container,) = job["template"]["spec"]["containers"]
    program, *arguments = container["command"]
    assert program == "python"
    assert arguments[:3] == ["-m", "flax_s2s", "train"]
    command = [sys.executable, *arguments[:2], *train_arguments(tmp_path / "run", 2)]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    variables |= {"JAX_COORDINATOR_ADDRESS": local_address(), "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]}
    environment = {**clean_environment(), **variables}
    pods = [(f"exec {subprocess.list2cmdline(command)}", {**environment, "JOB_COMPLETION_INDEX": str(index)}) for index in range(2)]
    train_in(tmp_path, pods)
    assert newest(tmp_path / "run")[0] == 2


@pytest.mark.slow
def test_machines_of_skypilot_train_together(tmp_path):
    """The task's own shell, with the variables that SkyPilot sets on each machine."""
    (task,) = documents("skypilot.yaml")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    host, port = local_address().split(":")
    shell = task["run"].replace(":8476", f":{port}")
    assert shell.count("configs/quickstart.py --run-dir /runs/quickstart") == 1
    _, *options = train_arguments(tmp_path / "run", 2)
    shell = shell.replace("configs/quickstart.py --run-dir /runs/quickstart", subprocess.list2cmdline(options))
    environment = {**clean_environment(), "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": f"{host}\n{host}"}
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], *filter(None, sys.path)])
    train_in(tmp_path, [(shell, {**environment, "SKYPILOT_NODE_RANK": str(index)}) for index in range(2)])
    assert newest(tmp_path / "run")[0] == 2
