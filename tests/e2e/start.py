"""Bad input at start-up: each ends with its exit code, a message that names what is wrong, a status file, and no process left."""
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile

from cluster import DENSE, ROOT, Cluster, main


def refuses(code, *parts, workers=1, model=DENSE, flags=()):
    c = Cluster(workers, model, flags)
    try:
        c.launch()
        got = c.wait(30)
        text = c.text()
        assert got == code, "exit %s, expected %s\n%s" % (got, code, text)
        for p in parts:
            assert p in text, "no '%s' in:\n%s" % (p, text)
        end = c.end()
        assert end["exit"] == code and end["message"], end
        assert not c.ranks(), "left: %s" % c.ranks()
    finally:
        c.__exit__(None, None, None)


class Model:
    """A copy of the dense model to spoil."""

    def __enter__(self):
        self.dir = tempfile.TemporaryDirectory()
        for f in os.listdir(DENSE):
            if not f.startswith("golden"):
                shutil.copy(os.path.join(DENSE, f), self.dir.name)
        return self

    def __exit__(self, *_):
        self.dir.cleanup()

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def edit(self, name, change):
        with open(self.path(name)) as f:
            j = json.load(f)
        change(j)
        with open(self.path(name), "w") as f:
            json.dump(j, f)

    def header(self, change):
        """Rewrites the header of model.safetensors in place (same length, padded)."""
        with open(self.path("model.safetensors"), "r+b") as f:
            n = struct.unpack("<Q", f.read(8))[0]
            j = json.loads(f.read(n))
            change(j)
            new = json.dumps(j, separators=(",", ":")).encode()
            assert len(new) <= n
            f.seek(8)
            f.write(new.ljust(n))


def a_model_that_is_not_there():
    refuses(3, "/no/such/model", model="/no/such/model")


def a_folder_without_weights():
    with Model() as m:
        os.unlink(m.path("model.safetensors"))
        refuses(3, "model.safetensors", "rank 1", model=m.dir.name)


def a_folder_without_config():
    with Model() as m:
        os.unlink(m.path("config.json"))
        refuses(3, "config.json", model=m.dir.name)


def weights_cut_short():
    with Model() as m:
        with open(m.path("model.safetensors"), "r+b") as f:
            f.truncate(os.path.getsize(f.name) // 2)
        refuses(3, "model.safetensors", "truncated", model=m.dir.name, workers=2)


def an_unknown_dtype():
    with Model() as m:
        m.header(lambda h: h["model.norm.weight"].update(dtype="I16"))
        refuses(3, "model.norm.weight", "I16", model=m.dir.name)


def a_dtype_that_is_no_weight_s():
    with Model() as m:
        def spoil(h):
            t = h["model.norm.weight"]
            t.update(dtype="I8", shape=[t["shape"][0] * 2])
        m.header(spoil)
        refuses(3, "model.norm.weight", model=m.dir.name)


def shapes_that_disagree_with_config():
    with Model() as m:
        m.edit("config.json", lambda j: j.update(intermediate_size=512))
        refuses(3, "mlp.gate_proj", "[512, 256]", "[768, 256]", model=m.dir.name)


def a_tokenizer_of_another_vocabulary():
    with Model() as m:
        m.edit("tokenizer.json", lambda j: j["added_tokens"].append({"id": 5000, "content": "<far>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}))
        refuses(3, "5000", "4096", model=m.dir.name)


def heads_that_tp_does_not_divide():
    refuses(2, "--tensor-parallel-size 3", workers=3, flags=["--tensor-parallel-size", "3"])


def a_mesh_that_does_not_come_out():
    refuses(2, "3", workers=3, flags=["--tensor-parallel-size", "2"])


def a_port_in_use():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        refuses(2, str(port), "in use", flags=["--port", str(port)])


def an_unknown_flag():
    refuses(2, "--tensor-paralel-size", "--tensor-parallel-size", flags=["--tensor-paralel-size", "2"])


def too_little_kv_memory():
    refuses(2, "--kv-cache-memory", "--max-model-len", flags=["--kv-cache-memory", "1M", "--max-model-len", "4096"])


def one_process_alone():
    serve = os.environ.get("TITAN_SERVE", os.path.join(ROOT, "build/release/bin/titan-serve"))
    env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    r = subprocess.run([serve, "--model", DENSE], capture_output=True, text=True, timeout=30, env=env, check=False)
    assert r.returncode == 2, r
    assert "mpirun -np 2" in r.stderr, r.stderr


def help_and_plan_need_no_cluster():
    serve = os.environ.get("TITAN_SERVE", os.path.join(ROOT, "build/release/bin/titan-serve"))
    r = subprocess.run([serve, "--help"], capture_output=True, text=True, timeout=10, check=False)
    assert r.returncode == 0 and "--tensor-parallel-size" in r.stdout
    r = subprocess.run([serve, "--plan", "--model", DENSE, "--tensor-parallel-size", "2"], capture_output=True, text=True, timeout=10, check=False)
    assert r.returncode == 0 and "rank 2" in r.stdout and "KV cache" in r.stdout, r


if __name__ == "__main__":
    main([a_model_that_is_not_there, a_folder_without_weights, a_folder_without_config, weights_cut_short, an_unknown_dtype, a_dtype_that_is_no_weight_s, shapes_that_disagree_with_config,
          a_tokenizer_of_another_vocabulary, heads_that_tp_does_not_divide, a_mesh_that_does_not_come_out, a_port_in_use, an_unknown_flag, too_little_kv_memory, one_process_alone,
          help_and_plan_need_no_cluster])
