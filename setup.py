"""Installation. The ranges are what works together: tensorflow-io loads on TensorFlow 2.16 only."""

import setuptools

SPARK = "pyspark>=4,<5"  # for build_records --engine spark, which needs Java 17 as well

setuptools.setup(
  name="lcn_tf",
  version="0.1.0",
  description="Cross-domain lifelong-sequence CTR models (LCN, TWIN and their peers): training, evaluation, export.",
  python_requires=">=3.11,<3.12",
  packages=setuptools.find_packages(include=["lcn_tf*", "pipelines*", "tools*"]),
  install_requires=[
    "tensorflow>=2.16.2,<2.17",
    "tf-keras>=2.16,<2.17",
    "tensorflow-recommenders>=0.7.7,<0.8",
    "tensorflow-io>=0.37.1,<0.38",
    "numpy>=1.26.4,<2",
    "protobuf>=4.25,<5",
    "absl-py>=2",
    "pydantic>=2.10,<3",
    "pyyaml>=6",
    "polars>=1.20,<3",
    "pyarrow>=17,<21",  # later ones need NumPy 2
    "scikit-learn>=1.4,<2",
    "scipy>=1.11,<2",
    "matplotlib>=3.8,<4",
    "tqdm>=4.66",
  ],
  extras_require={
    "dev": [
      "pytest>=8",
      "pytest-xdist>=3.5",
      "hypothesis>=6.100",
      "ruff==0.17.*",
      "mypy==2.4.*",
      "types-PyYAML",
      "import-linter>=2.3,<3",
      "moto[server]>=5,<6",
      "tensorflow-serving-api>=2.16,<2.17",
      SPARK,
    ],
    "gpu": ["tensorflow[and-cuda]>=2.16.2,<2.17"],
    "spark": [SPARK],
  },
)
