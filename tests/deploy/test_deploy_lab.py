"""The lab reads all of what the chart renders, and what it does not know it refuses; deploy/README.md is short."""

import copy

import pytest
import yaml

from tests.deploy.chart import render, rendered
from tests.deploy.lab.manifest import UnknownError, containers, quantity, read
from tests.deploy.lab.network import CHAIN, rules
from tests.deploy.live import EXAMPLE, VALUES
from tests.deploy.readme import COMMANDS_MAX, sections

pytestmark = pytest.mark.usefixtures("tools")

LAB = yaml.safe_load(VALUES.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def objects():
    """What the chart renders for a trial, and the example."""
    return [*rendered("trial").objects, *yaml.safe_load_all(EXAMPLE.read_text(encoding="utf-8"))]


def every_container(objects):
    found = read(objects)
    return {
        (template.owner, one.name): one
        for template in (*found.templates, *found.hooks)
        for one in containers(found, template, template.owner)
    }


def test_the_lab_knows_all_that_the_chart_renders(objects):
    found = every_container(objects)
    assert {owner for owner, _ in found} == {
        "swell-scheduler", "swell-ledger", "swell-executor-default", "swell-nats", "swell-test", "swell-example",
    }  # fmt: skip
    scheduler = found["swell-scheduler", "scheduler"]
    assert {"--read-only", "--cap-drop", "no-new-privileges", "10001:10001", "0.4", str(256 * 2**20)} <= set(
        scheduler.options
    )
    assert ("SWELL_SCHEDULER_ID", "swell-scheduler") in scheduler.environment
    mounts = {mount.at: mount for mount in scheduler.mounts}
    assert {file.path: oct(file.mode) for file in mounts["/etc/swell-bus"].files} == {
        "password": "0o440",
        "ca.crt": "0o440",
    }
    assert {mount.claim for mount in found["swell-ledger", "ledger"].mounts} == {"", "state-swell-ledger"}


def test_the_lab_knows_the_profile_that_is_struck():
    with pytest.raises(KeyError, match="lab-principals"):
        every_container(render(LAB).objects)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Deployment", lambda one: one["spec"]["template"]["spec"].update(hostNetwork=True)),
        ("Deployment", lambda one: one["spec"]["template"]["spec"]["containers"][0].update(envFrom=[])),
        ("Deployment", lambda one: one["spec"]["template"]["spec"]["containers"][0]["securityContext"].update(privileged=True)),
        ("Deployment", lambda one: one["spec"]["template"]["spec"]["containers"][0]["readinessProbe"].update(grpc={})),
        ("Deployment", lambda one: one["spec"]["template"]["spec"]["securityContext"].update(seccompProfile={"type": "Unconfined"})),
        ("Deployment", lambda one: one["spec"].update(paused=True)),
        ("Service", lambda one: one["spec"].update(type="LoadBalancer")),
        ("NetworkPolicy", lambda one: one["spec"].update(something=[])),
        ("ConfigMap", lambda one: one.update(kind="DaemonSet")),
    ],
)  # fmt: skip
def test_what_the_lab_does_not_know_it_refuses(objects, kind, change):
    """So that a change of the chart cannot pass unseen."""
    changed = copy.deepcopy(objects)
    change(next(one for one in changed if one["kind"] == kind))
    with pytest.raises(UnknownError):
        every_container(changed)


@pytest.mark.parametrize(
    ("text", "number"), [("400m", 0.4), ("2", 2), (1, 1), ("256Mi", 256 * 2**20), ("1Gi", 2**30), ("1k", 1000)]
)
def test_quantities_are_those_of_kubernetes(text, number):
    assert quantity(text) == number


def test_policies_become_rules(objects):
    """Who may say something, and who may hear it: both have to allow it."""
    found = read(objects)
    labels = {template.owner: template.labels for template in found.templates}
    pods = [
        ("10.0.0.1", labels["swell-executor-default"]),
        ("10.0.0.2", labels["swell-nats"]),
        ("10.0.0.3", labels["swell-example"]),
    ]
    made = rules(found.policies, pods)
    assert f"-A {CHAIN} -s 10.0.0.1 -d 10.0.0.2 -p tcp --dport 4222 -j MARK --or-mark 0x1" in made
    assert f"-A {CHAIN} -d 10.0.0.2 -s 10.0.0.1 -p tcp --dport 4222 -j MARK --or-mark 0x2" in made
    assert f"-A {CHAIN} -s 10.0.0.1 -d 10.0.0.3 -p tcp --dport 8080 -j MARK --or-mark 0x1" in made
    assert f"-A {CHAIN} -d 10.0.0.2 -m mark ! --mark 0x2/0x2 -j DROP" in made
    assert not any("10.0.0.3 -m mark" in rule for rule in made), "nothing selects the example"
    beyond = [rule for rule in made if "--dport 443 " in rule]
    assert beyond
    assert not any(" 10." in rule.partition("-d ")[2] for rule in beyond), "private addresses are left out"


def test_a_finished_run_takes_few_commands():
    assert 1 < len(sections()[0]) <= COMMANDS_MAX
    assert sections()[0][-1].endswith("swell show last")
    assert not any(command.endswith("\\") for commands in sections() for command in commands), "one line each"
