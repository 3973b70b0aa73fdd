"""Generates the stubs of the contract while the package is built; all else is in pyproject.toml."""

import os
import pathlib
import re
import shutil
import sys
import tempfile

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent
# In the repository the contract is at its top; a source distribution brings a copy.
PROTO = next(path for path in (HERE / "proto", HERE.parent.parent / "proto") if path.is_dir())
# Generated modules import each other by the path of the contract, which would be a package `usage` of everybody's.
MODULE = re.compile(r"\busage\.v1(\.\w+_pb2\b| import )")


def generate(target: pathlib.Path) -> None:
    """Writes the stubs and their types as the package `usage_client.proto`."""
    import grpc_tools
    from grpc_tools import protoc

    # protoc looks for the generator of types there, also if the environment of the build is not activated.
    os.environ["PATH"] = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])
    google = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    files = sorted(str(file.relative_to(PROTO)) for file in PROTO.glob("usage/v1/*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        kinds = ["python", "grpc_python", "mypy", "mypy_grpc"]
        flags = [f"-I{PROTO}", f"-I{google}", *(f"--{kind}_out={folder}" for kind in kinds)]
        if protoc.main(["protoc", *flags, *files]) != 0:
            raise SystemExit("the stubs of the contract could not be generated")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        (target / "__init__.py").write_text('"""The messages and services of `usage.v1`, generated from the contract."""\n')
        for module in pathlib.Path(folder, "usage", "v1").iterdir():
            text = MODULE.sub(r"usage_client.proto\1", module.read_text(encoding="utf-8"))
            (target / module.name).write_text(text, encoding="utf-8")


class BuildWithStubs(build_py):
    """Builds the modules, and the stubs beside them."""

    def run(self) -> None:
        super().run()
        generate(pathlib.Path(self.build_lib, "usage_client", "proto"))


class SourceWithContract(sdist):
    """Adds the contract, so that the source builds by itself."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        shutil.copytree(PROTO, pathlib.Path(base_dir, "proto"), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithStubs, "sdist": SourceWithContract})
