"""s3proxy, which keeps objects as files (jclouds' filesystem-nio2). Needs Java 17."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.endpoint import Endpoint
from tests.harness.stores.ports import free_ports
from tests.harness.stores.server import INSTALLED, await_answer, process

_JARS = INSTALLED / "s3proxy"

_PROPERTIES = """\
s3proxy.endpoint={url}
s3proxy.authorization=aws-v2-or-v4
s3proxy.identity={access_key}
s3proxy.credential={secret_key}
jclouds.provider=filesystem-nio2
jclouds.filesystem.basedir={data}
"""

#: Without it each request is logged to the last byte.
_LOGGING = """\
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %level %logger %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="out"/></root>
</configuration>
"""


class S3Proxy:
    title = "s3proxy, filesystem-nio2"

    def missing(self) -> str:
        wanted = {
            "a Java runtime (17)": shutil.which("java"),
            "org.gaul:s3proxy (Maven)": self._jar(),
        }
        return ", ".join(what for what, found in wanted.items() if not found)

    def _jar(self) -> Path | None:
        return next(_JARS.glob("s3proxy-*.jar"), None)

    def version(self) -> str:
        jar = self._jar()
        assert jar is not None
        return jar.stem.removeprefix("s3proxy-")

    @contextmanager
    def serve(self, root: Path) -> Iterator[Endpoint]:
        (port,) = free_ports(1)
        endpoint = Endpoint(url=f"http://127.0.0.1:{port}", moto=False)
        properties, logging, data = root / "properties", root / "logback.xml", root / "data"
        data.mkdir()
        properties.write_text(
            _PROPERTIES.format(
                url=endpoint.url,
                access_key=endpoint.access_key,
                secret_key=endpoint.secret_key,
                data=data,
            )
        )
        logging.write_text(_LOGGING)
        command = [
            "java",
            "-Xmx1g",
            f"-Dlogback.configurationFile={logging}",
            f"-Djava.io.tmpdir={root}",
            "-cp",
            f"{_JARS}/*",
            "org.gaul.s3proxy.Main",
            "--properties",
            properties,
        ]
        with process(command, root) as child:
            await_answer(endpoint, child, root)
            yield endpoint
