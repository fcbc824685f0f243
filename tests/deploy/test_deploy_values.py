"""Values that cannot be right are refused before anything is installed, with the name of the key."""

import pytest

from tests.deploy.chart import CASES, CHART, helm

pytestmark = pytest.mark.usefixtures("tools")

EXTERNAL = CASES["external"]["nats"]["external"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nope": 1}, "'nope' not allowed"),
        ({"scheduler": {"replicas": "two"}}, "'/scheduler/replicas': got string, want integer"),
        ({"scheduler": {"replicas": 0}}, "'/scheduler/replicas': minimum"),
        ({"scheduler": {"replica": 2}}, "'/scheduler': additional properties 'replica' not allowed"),
        ({"scheduler": {"settings": {"max_worker": 2}}}, "'/scheduler/settings': additional properties 'max_worker'"),
        ({"scheduler": {"settings": {"review": "maybe"}}}, "'/scheduler/settings/review'"),
        ({"scheduler": {"settings": {"tool_breaker": {"failures": 0}}}}, "'/scheduler/settings/tool_breaker/failures'"),
        ({"scheduler": {"settings": {"bind": "0.0.0.0:1"}}}, "'/scheduler/settings': additional properties 'bind'"),
        ({"ledger": {"settings": {"memory_limit_mb": "256"}}}, "'/ledger/settings/memory_limit_mb': got string"),
        ({"ledger": {"storage": {"size": "twenty"}}}, "'/ledger/storage/size'"),
        ({"ledger": {"files": {"ledger.toml": "x"}}}, "'/ledger/files/ledger.toml'"),
        ({"image": {"tag": "latest"}}, "'/image/tag'"),
        ({"image": {"digest": "sha256:abc"}}, "'/image/digest'"),
        ({"image": {"pullPolicy": "Sometimes"}}, "'/image/pullPolicy'"),
        ({"pools": {"Big_Pool": {}}}, "'/pools': additional properties 'Big_Pool'"),
        ({"pools": {"gpu": {"slots": 0}}}, "'/pools/gpu/slots'"),
        ({"pools": {"gpu": {"slot": 4}}}, "'/pools/gpu': additional properties 'slot'"),
        ({"pools": {"gpu": {"settings": {"pool": "x"}}}}, "'/pools/gpu/settings': additional properties 'pool'"),
        ({"pools": {"default": None}}, "'/pools': minProperties"),
        ({"pools": {"gpu": {"sandbox": "yes"}}}, "'/pools/gpu/sandbox'"),
        ({"pools": {"gpu": {"secrets": [{"secret": "a", "path": "/etc/swell"}]}}}, "'/pools/gpu/secrets/0/path'"),
        ({"poolDefaults": {"autoscaling": {"mode": "auto"}}}, "'/poolDefaults/autoscaling/mode'"),
        ({"poolDefaults": {"autoscaling": {"mode": "keda"}}}, "monitoring.prometheusUrl"),
        ({"poolDefaults": {"env": {"SWELL_BUS_URL": "nats://x"}}}, "'/poolDefaults/env/SWELL_BUS_URL'"),
        ({"poolDefaults": {"env": {"A": 1}}}, "'/poolDefaults/env/A': got number, want string"),
        ({"nats": {"mode": "cluster"}}, "'/nats/mode'"),
        ({"nats": {"trial": {"nodes": 2}}}, "'/nats/trial/nodes'"),
        ({"nats": {"mode": "external"}}, "'/nats/external/url'"),
        ({"nats": {"mode": "external", "external": EXTERNAL | {"url": "http://nats:4222"}}}, "'/nats/external/url'"),
        ({"nats": {"mode": "external", "external": {"url": EXTERNAL["url"]}}}, "'/nats/external/secrets/scheduler'"),
        ({"nats": CASES["external"]["nats"], "pools": {"gpu": {}}}, "nats.external.secrets.executors.gpu"),
        ({"tls": {"mode": "none"}}, "'/tls/mode'"),
        ({"tls": {"mode": "existing"}}, "'/tls/existing/scheduler'"),
        ({"tls": {"mode": "existing", "existing": {"scheduler": "a", "ledger": "b"}}}, "'/tls/existing/nats'"),
        ({"tls": {"mode": "certManager"}}, "'/tls/certManager/issuer/name'"),
        ({"auth": {"limits": {"burst": 0.5}}}, "'/auth/limits/burst'"),
        ({"auth": {"mode": "existing"}}, "'/auth/principalsSecret'"),
        ({"auth": {"oidc": {"issuer": "https://id.example"}}}, "'/auth/oidc/audience'"),
        ({"auth": {"oidc": {"issuer": "http://id.example"}}}, "'/auth/oidc/issuer'"),
        ({"networkPolicy": {"enabled": "true"}}, "'/networkPolicy/enabled': got string, want boolean"),
        ({"networkPolicy": {"clients": [{"podSelectors": {}}]}}, "'/networkPolicy/clients/0'"),
        ({"monitoring": {"rules": 1}}, "'/monitoring/rules'"),
    ],
)
def test_wrong_values_are_refused_by_name(values, said):
    code, output = helm("template", "swell", str(CHART), values=values)
    assert code != 0
    assert said in output


def test_a_long_name_of_a_release_is_refused_rather_than_cut():
    code, output = helm("template", "a-release-with-quite-a-long-name", str(CHART))
    assert code != 0
    assert "may have 30 characters" in output
