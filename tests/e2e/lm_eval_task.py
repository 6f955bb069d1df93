"""lm-eval's local-completions against a cluster of two workers. usage: lm_eval_task.py VENV FOLDER [STORIES]

Two tasks over a local file, written to FOLDER: `titan_stories`, the log-likelihood of whole stories, which must be the one PyTorch found (models/nll_golden.json);
`titan_endings`, which of four endings belongs to a beginning. lm-eval sends prompts as token ids, several a request, with echo, logprobs 1 and max_tokens 1.
"""
import glob
import json
import os
import subprocess
import sys

from cluster import DENSE, ROOT, Cluster

TASKS = {
    "titan_stories": """task: titan_stories
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
  - metric: word_perplexity
""",
    "titan_endings": """task: titan_endings
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{beginning}}}}"
doc_to_choice: "{{{{endings}}}}"
doc_to_target: "{{{{label}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
""",
}


def write_tasks(folder, n):
    """The sum of the stories' golden log-likelihoods."""
    with open(os.path.join(ROOT, "models", "nll_golden.json")) as f:
        stories = json.load(f)["stories"][:n]
    with open(os.path.join(DENSE, "tokenizer_config.json")) as f:
        eos = json.load(f)["eos_token"]
    eos = eos["content"] if isinstance(eos, dict) else eos
    texts = [s["text"] for s in stories]
    rows = {"titan_stories": [{"text": t + eos} for t in texts], "titan_endings": []}
    for i, t in enumerate(texts):
        cut = t.rfind(" ", 0, len(t) * 2 // 3)
        others = [texts[(i + d) % n] for d in (1, 2, 3)]
        endings = [o[o.rfind(" ", 0, len(o) * 2 // 3):][:200] for o in others]
        endings.insert(i % 4, t[cut:][:200])
        rows["titan_endings"].append({"beginning": t[:cut], "endings": endings, "label": i % 4})
    for name, task in TASKS.items():
        data = os.path.join(folder, name + ".jsonl")
        with open(data, "w") as f:
            f.writelines(json.dumps(r) + "\n" for r in rows[name])
        with open(os.path.join(folder, name + ".yaml"), "w") as f:
            f.write(task.format(data=data))
    return -sum(s["titan-tiny-dense"] for s in stories)


def samples(folder, name):
    with open(max(glob.glob(os.path.join(folder, "out", "**", "samples_%s_*.jsonl" % name), recursive=True), key=os.path.getmtime)) as f:
        return [json.loads(line) for line in f]


if __name__ == "__main__":
    venv, folder, n = sys.argv[1], os.path.abspath(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 40
    os.makedirs(folder, exist_ok=True)
    want = write_tasks(folder, n)
    with Cluster(2, flags=["--tensor-parallel-size", "2", "--log-level", "warn"]) as c:
        model = "model=titan-tiny-dense,base_url=%s/v1/completions,tokenizer=%s,tokenizer_backend=huggingface,tokenized_requests=True,num_concurrent=4,max_retries=1,max_length=1024" % (c.url, DENSE)
        subprocess.run([os.path.join(venv, "bin", "lm_eval"), "run", "--model", "local-completions", "--model_args", model, "--tasks", "titan_stories,titan_endings", "--include_path", folder,
                        "--batch_size", "8", "--output_path", os.path.join(folder, "out"), "--log_samples"],
                       env=dict(os.environ, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=os.path.join(folder, "cache")), check=True)
    got = sum(float(s["filtered_resps"][0][0] if isinstance(s["filtered_resps"][0], list) else s["filtered_resps"][0]) for s in samples(folder, "titan_stories"))
    right = sum(s["acc"] for s in samples(folder, "titan_endings"))
    print("log-likelihood of %d stories: lm-eval %.4f, PyTorch %.4f; endings: %d of %d" % (n, got, want, right, n))
    assert abs(got - want) < 1e-5 * abs(want), "the log-likelihoods differ"
    assert right > n * 0.7, "%d of %d endings found" % (right, n)
