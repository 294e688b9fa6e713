"""The index of chunks in a real Redis: it remembers, it forgets, and its failure costs nothing but work."""

from dvcr.descriptor import Descriptor
from dvcr.digest import Digest
from importer.recall import RedisChunkIndex
from tests.support.redis import RedisServer

FINGERPRINT = bytes(range(32))
BLOB = Descriptor("application/vnd.dvcr.disk.chunk.v1+zstd", Digest.of(b"chunk"), 5)


def test_remembers_for_its_lifetime_since_the_last_look(redis_server: RedisServer) -> None:
    index = RedisChunkIndex.from_settings(redis_server.settings(), 1000)
    assert index.get(FINGERPRINT) is None
    index.put(FINGERPRINT, BLOB)
    client = redis_server.client()
    (key,) = client.keys("dvcr:chunk:*")
    client.expire(key, 10)
    assert index.get(FINGERPRINT) == BLOB
    assert 900 < client.ttl(key) <= 1000


def test_nonsense_is_not_known(redis_server: RedisServer) -> None:
    index = RedisChunkIndex.from_settings(redis_server.settings(), 1000)
    for nonsense in (b"", b"sha256:0 1 a", b"\xff", b"sha256:" + b"0" * 64 + b" x y"):
        redis_server.client().set(f"dvcr:chunk:{FINGERPRINT.hex()}", nonsense)
        assert index.get(FINGERPRINT) is None


def test_a_redis_that_is_gone_knows_nothing(redis_server: RedisServer) -> None:
    settings = redis_server.settings()
    missing = settings.model_copy(update={"url": type(settings.url)("redis+socket:///nowhere/redis.sock")})
    index = RedisChunkIndex.from_settings(missing, 1000)
    index.put(FINGERPRINT, BLOB)
    assert index.get(FINGERPRINT) is None
