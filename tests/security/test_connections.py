"""Who may connect to a crawl, and whom a crawl connects to: nothing listens, certificates are verified."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import http.server
import importlib
import ipaddress
import os
import pkgutil
import re
import select
import socket
import ssl
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scrapy import Request
from scrapy.core.downloader.handlers import DownloadHandlers
from scrapy.exceptions import NotSupported
from scrapy.utils.spider import iter_spider_classes

import carscraper.spiders
from tests import services
from tests.conftest import service
from tests.crawl.test_askja import chromium
from tests.crawl.world import IMPOLITE, World, last_words, verdict
from tests.dealers.askja import SimulatedAskja
from tests.fakes import make_crawler

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy import Spider

LISTEN = "0A"
NO_PEER = re.compile(r"0+:0000")

# --- what listens -----------------------------------------------------------------------------------------------


def address_of(text: str) -> tuple[str, int]:
    """Address and port of a line in ``/proc/net``: words of four bytes in the machine's own order.

    >>> address_of("0100007F:1F90"), address_of("00000000000000000000000001000000:0050")
    (('127.0.0.1', 8080), ('::1', 80))
    """
    address, _, port = text.partition(":")
    words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
    return str(ipaddress.ip_address(b"".join(words))), int(port, 16)


def listeners(pid: int) -> set[tuple[str, str, int]]:
    """Kind, address and port of each socket, of a process and all that it started, that takes what strangers send."""
    inodes = set()
    for member in services.family(pid):
        for handle in Path(f"/proc/{member}/fd").glob("*"):
            with contextlib.suppress(OSError):
                if found := re.fullmatch(r"socket:\[(\d+)\]", str(handle.readlink())):
                    inodes.add(found[1])
    open_ = set()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            _, local, remote, state, *_, inode = line.split()[:10]
            waits = state == LISTEN if kind.startswith("tcp") else NO_PEER.fullmatch(remote)
            if inode in inodes and waits:
                open_.add((kind, *address_of(local)))
    return open_


def test_a_listener_is_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        found = listeners(os.getpid())
        assert ("tcp", *server.getsockname()) in found
        assert ("udp", *datagrams.getsockname()) in found
    assert address_of("00000000:0050") == ("0.0.0.0", 80)
    assert not ipaddress.ip_address(address_of("00000000000000000000000000000000:0050")[0]).is_loopback
    assert not ipaddress.ip_address(address_of("0101A8C0:0050")[0]).is_loopback


def watch(world: World, running: services.RunningCrawl, kind: str, times: int = 1) -> None:
    """Look from the crawl's beginning until it is held by its site, and once more then."""
    seen: set[tuple[str, str, int]] = set()

    def asked() -> bool:
        seen.update(listeners(running.pid))
        time.sleep(0.1)
        return world.asked(kind) >= times or not running.running

    services.wait_until(asked, 40, f"a request for {kind}")
    assert running.running, running.wait()
    seen |= listeners(running.pid)
    assert seen == set()


def test_nothing_listens_while_a_crawl_runs(
    new_world: Callable[..., World], postgres_url: str, rclone_s3: services.S3
) -> None:
    """Neither the crawl with both its services, nor Scrapy's telnet console or remote control."""
    world = new_world(cars=2, photos=2, database_url=postgres_url, env=rclone_s3.env)
    world.site.fault("photo", ["never"], sticky=True)
    with services.start_crawl(
        "bilasolur",
        cwd=world.folder,
        env={"DATABASE_URL": world.database_url} | world.env,
        settings=IMPOLITE | {"DOWNLOAD_TIMEOUT": 30, "LOG_LEVEL": "DEBUG"},
        spider_arguments={"base_url": world.site.base_url},
    ) as running:
        watch(world, running, "photo")
        running.kill()
        done = running.wait(20)
    enabled = re.search(r"Enabled extensions:\s+(\[.*?\])", done.stderr, re.DOTALL)
    assert enabled
    assert "carscraper.extensions" in enabled[1]
    assert not re.search(r"telnet|remote", enabled[1], re.IGNORECASE)


def test_nothing_listens_while_a_browser_runs(new_world: Callable[..., World]) -> None:
    """Playwright speaks to Chromium through pipes, not through its debugging port."""
    with service(chromium):
        world = new_world(site=SimulatedAskja(cars=30, photos=1), spider="askja")
        world.site.fault("list:16", ["never"], sticky=True)
        with services.start_crawl(
            "askja",
            cwd=world.folder,
            env={"DATABASE_URL": world.database_url},
            settings=IMPOLITE | {"DOWNLOAD_TIMEOUT": 60},
            spider_arguments={"base_url": world.site.base_url},
        ) as running:
            watch(world, running, "list", 3)
            family = services.family(running.pid)
            commands = [Path(f"/proc/{process}/cmdline").read_bytes() for process in family]
            assert any(b"--type=renderer" in command for command in commands)


def test_scrapyd_listens_on_loopback_only(tmp_path: Path) -> None:
    (tmp_path / "scrapyd.conf").write_bytes((services.REPO / "deploy" / "scrapyd.conf").read_bytes())
    port = services.free_port()
    secrets = {"SCRAPYD_USERNAME": "operator", "SCRAPYD_PASSWORD": "only-of-this-test"}
    environment = services.crawl_environment(tmp_path, {"SCRAPYD_HTTP_PORT": str(port), **secrets})
    command = [sys.executable, "-W", "ignore", "-m", "scrapyd", "--pidfile="]
    with services.RunningCrawl(command, env=environment, cwd=tmp_path) as running:
        found = services.wait_until(lambda: listeners(running.pid) if running.running else None, 30, "scrapyd")
    assert found == {("tcp", "127.0.0.1", port)}


# --- what a crawl opens -----------------------------------------------------------------------------------------


def spiders() -> list[type[Spider]]:
    modules = [
        importlib.import_module(f"carscraper.spiders.{each.name}")
        for each in pkgutil.iter_modules(carscraper.spiders.__path__)
    ]
    return [spider for module in modules for spider in iter_spider_classes(module)]


@pytest.mark.parametrize("spider", spiders(), ids=lambda spider: spider.name)
def test_no_spider_opens_files_or_other_protocols(spider: type[Spider]) -> None:
    """Spiders that bring a handler of their own must not bring Scrapy's others back with it."""
    crawler = make_crawler(spider)
    handlers = DownloadHandlers(crawler)

    async def fetch(url: str) -> None:
        with pytest.raises(NotSupported):
            await handlers.download_request_async(Request(url))

    for url in ("file:///etc/passwd", "data:text/html,x", "ftp://127.0.0.1:9/x", "s3://bucket/x"):
        asyncio.run(fetch(url))
    assert crawler.settings.getbool("DOWNLOAD_VERIFY_CERTIFICATES")
    assert not crawler.settings.getbool("TELNETCONSOLE_ENABLED")
    assert not crawler.settings.getbool("REMOTE_CONTROL_ENABLED")


# --- certificates -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificates:
    """A private authority, and the certificate that it gave 127.0.0.1; PEM files."""

    authority: Path
    server: Path
    key: Path


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    def name_of(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    now = dt.datetime.now(dt.UTC)
    keys = {who: ec.generate_private_key(ec.SECP256R1()) for who in ("authority", "server")}
    for who, extensions in {
        "authority": [x509.BasicConstraints(ca=True, path_length=None)],
        "server": [x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])],
    }.items():
        builder = x509.CertificateBuilder(
            issuer_name=name_of("authority"),
            subject_name=name_of(who),
            public_key=keys[who].public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - dt.timedelta(days=1),
            not_valid_after=now + dt.timedelta(days=1),
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        signed = builder.sign(keys["authority"], hashes.SHA256())
        (tmp_path / f"{who}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "server.key").write_bytes(
        keys["server"].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Certificates(*(tmp_path / name for name in ("authority.pem", "server.pem", "server.key")))


class TlsFront:
    """Speaks TLS before a plain server, both on loopback; counts the handshakes that were completed."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self._context = context
        self._behind = port
        self._server = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port: int = self._server.getsockname()[1]
        self.handshakes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), self._context.wrap_socket(client, server_side=True) as outside:
            self.handshakes += 1
            with socket.create_connection(("127.0.0.1", self._behind)) as inside:
                while True:
                    ready = [outside] if outside.pending() else select.select([outside, inside], [], [], 20)[0]
                    for source in ready:
                        data = source.recv(65536)
                        if not data:
                            return
                        (inside if source is outside else outside).sendall(data)


class Tunnels(http.server.BaseHTTPRequestHandler):
    """A proxy that connects to the port of its name, wherever the name leads."""

    asked: ClassVar[list[str]] = []

    def do_CONNECT(self) -> None:
        self.asked.append(self.path)
        self.send_response_only(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as inside:
            while True:
                for source in select.select([self.connection, inside], [], [], 20)[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    (inside if source is self.connection else self.connection).sendall(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_dealer_must_prove_who_it_is(new_world: Callable[..., World], certificates: Certificates) -> None:
    world = new_world(cars=1, photos=1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.key)
    with TlsFront(context, world.site.port) as front:
        words: dict[str, Any] = {"base_url": f"https://127.0.0.1:{front.port}", "settings": {"RETRY_TIMES": 0}}
        done = world.crawl(code=4, **words)
        assert "can't be reached" in verdict(done)
        assert world.site.served.requests == []
        # It is for the certificate alone: with an authority that this machine knows all goes well.
        done = world.crawl(env={"SSL_CERT_FILE": str(certificates.authority)}, **words)
        assert "1 photo stored" in last_words(done)
        assert front.handshakes > 0


def forget_all(world: World) -> None:
    """Have the next crawl store all photos again."""
    for table in ("car_images", "car_listings"):
        world.sql(f"DELETE FROM {table}")


def test_a_bucket_must_prove_who_it_is(
    new_world: Callable[..., World], certificates: Certificates, tmp_path: Path
) -> None:
    flags = ["--cert", str(certificates.server), "--key", str(certificates.key)]
    with service(lambda: services.RcloneS3(tmp_path / "s3", flags=flags)) as server:
        plain = server.bucket()
        assert plain.folder is not None
        bucket = replace(plain, endpoint=plain.endpoint.replace("http:", "https:"))
        world = new_world(cars=1, photos=1, env=bucket.env)
        done = world.crawl(code=4)
        assert "can't be verified" in verdict(done)
        assert "set AWS_CA_BUNDLE" in verdict(done)
        assert list(plain.folder.rglob("*.jpg")) == []
        trusting = {"AWS_CA_BUNDLE": str(certificates.authority)}
        world.crawl(env=trusting)
        assert len(list(plain.folder.rglob("*.jpg"))) == 1
        # And through a proxy: the check at the start, uploads and boto3 alike.
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tunnels) as proxy:
            threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
            forget_all(world)
            # boto3 knows no ranges in NO_PROXY, obstore does; and obstore alone knows ALL_PROXY.
            behind = trusting | {
                "HTTPS_PROXY": f"127.0.0.1:{proxy.server_port}",
                "ALL_PROXY": "http://127.0.0.1:9",
                "NO_PROXY": "127.0.0.0/8",
            }
            world.crawl(env=behind)
            assert Tunnels.asked == [bucket.endpoint.removeprefix("https://")] * 2, "of the check and of the upload"
            assert world.command("storage", "check", env=behind).returncode == 0
            assert len(Tunnels.asked) > 2
            forget_all(world)
            Tunnels.asked.clear()
            world.crawl(env=behind | {"NO_PROXY": "127.0.0.1"})
            assert Tunnels.asked == []
            proxy.shutdown()
