"""The key file when several processes want it at once."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from chimera.keyring import open_master_keys
from chimera.settings import Settings


def test_processes_that_start_together_agree_on_one_key(tmp_path):
    """Server and worker of a new installation both want the key file, and it is written once:
    nobody reads a half-written one, and all hold the same key."""
    together = 6
    for installation in range(60):
        settings = Settings(home=tmp_path / str(installation))
        barrier = Barrier(together)

        def start(settings=settings, barrier=barrier):
            barrier.wait()
            keys = open_master_keys(settings)
            return keys.wrap(b"data key", version=1, aad=b"place")

        with ThreadPoolExecutor(together) as pool:
            wrapped = [future.result() for future in [pool.submit(start) for _ in range(together)]]
        keys = open_master_keys(settings)
        assert {keys.unwrap(each, version=1, aad=b"place") for each in wrapped} == {b"data key"}
        assert [path.name for path in settings.key_file.parent.iterdir()] == ["master.json"]
