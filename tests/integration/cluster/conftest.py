"""An API with a kind of the tests' own."""

import pytest

from tests.support.cluster import ClusterProcess
from tests.support.embedded_api import THING_CRD, Api


@pytest.fixture(scope="module")
def api(shared_cluster: ClusterProcess) -> Api:
    api = Api(shared_cluster)
    api("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", THING_CRD, code=201)
    return api
