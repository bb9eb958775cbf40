"""The bill of materials of a release, in CycloneDX 1.6: what is in it, from where, with hashes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from uuid import UUID

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from jepa_edge import __version__
from jepa_edge.bundle import Manifest
from jepa_edge.devices.release.wheels import Package

NO_CLOCK = datetime(1980, 1, 1, tzinfo=timezone.utc)
"""The format wants a date, a reproducible file no clock: the first date that zip files know."""


def bill_of_materials(
    name: str, version: str, manifest: Manifest, packages: Sequence[Package]
) -> str:
    """The CycloneDX JSON of a release; the same text each time (no clock, no random number)."""
    release = Component(
        name=name, version=version, type=ComponentType.APPLICATION, bom_ref=f"release:{name}"
    )
    parts = [_model(manifest), _own(), *map(_package, packages)]
    bom = Bom(components=parts, serial_number=_serial(manifest, packages))
    bom.metadata = BomMetaData(component=release, timestamp=NO_CLOCK)
    bom.register_dependency(release, parts)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
    return text + "\n"


def _own() -> Component:
    return Component(
        name="jepa-edge",
        version=__version__,
        type=ComponentType.LIBRARY,
        purl=PackageURL("pypi", None, "jepa-edge", __version__),
        bom_ref="jepa-edge",
    )


def _package(package: Package) -> Component:
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=PackageURL("pypi", None, package.name.lower(), package.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)],
        bom_ref=f"wheel:{package.file}",
    )


def _model(manifest: Manifest) -> Component:
    sources = [
        Property(name="jepa-edge:source", value=manifest.provenance.source),
        Property(name="jepa-edge:source-sha256", value=manifest.provenance.source_sha256),
    ]
    return Component(
        name=manifest.name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model:{manifest.name}",
        properties=sources,
    )


def _serial(manifest: Manifest, packages: Sequence[Package]) -> UUID:
    """A UUID from the content itself, where CycloneDX would take a random one."""
    import hashlib

    text = "".join([*manifest.files.values(), *(p.sha256 for p in packages)])
    return UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4)
