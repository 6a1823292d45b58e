"""TLS at the door of a service: who gets in, and files and addresses that are refused."""

from dataclasses import replace

import grpc
import pytest
from certificates import access, authority, server_tls
from gate_fakes import CONFIG, Service, connected, failure, healthy, serving, set_link
from servers import eventually

from shared.errors import InvalidInputError
from shared.limits import RpcLimits
from shared.stubs.mmsc.v1 import channel_pb2
from shared.tls import Access, ServerTls


@pytest.mark.parametrize("mutual", [False, True])
async def test_tls_lets_in_who_trusts_and_is_trusted(mutual):
    config = replace(CONFIG, tls=server_tls(mutual=mutual))
    async with serving(config) as address:
        async with connected(address, access(cert="ours")) as stub:
            await set_link(stub)
            assert await healthy(stub)
        for through in (None, access(ca="foreign", cert="ours"), access(cert="foreign"), access()):
            trusted = not mutual and through is not None and through.ca == access().ca
            async with connected(address, through) as stub:
                if trusted:
                    await set_link(stub)
                else:
                    assert (await failure(set_link(stub))).code() == grpc.StatusCode.UNAVAILABLE
        async with connected(address, replace(access(cert="ours"), server_name="elsewhere")) as stub:
            assert (await failure(set_link(stub))).code() == grpc.StatusCode.UNAVAILABLE


async def test_a_peer_is_known_by_its_certificate():
    config = replace(CONFIG, tls=server_tls(mutual=True), limits=RpcLimits(per_peer=1))
    other = replace(access(), cert=authority("ours") / "service.pem", key=authority("ours") / "service.key")
    servicer = Service()
    async with (
        serving(config, servicer=servicer) as address,
        connected(address, access(cert="ours")) as stub,
        connected(address, other) as another,
    ):
        waiting = stub.GetLink(channel_pb2.GetLinkRequest())
        await eventually(lambda: servicer.entered)
        assert (await failure(set_link(stub))).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await set_link(another)
        servicer.released.set()
        await waiting


@pytest.mark.parametrize(
    ("settings", "field", "reason"),
    [
        ({"cert": "service.pem"}, "tls_key", "is missing: tls_cert needs it"),
        ({"key": "service.key"}, "tls_cert", "is missing: tls_key needs it"),
        ({"client_ca": "ca.pem"}, "tls_client_ca", "needs a tls_cert"),
        ({"cert": "absent.pem", "key": "service.key"}, "tls_cert", "cannot read .*absent.pem: No such file"),
        ({"cert": "service.pem", "key": "client.key"}, "tls_key", "is not the key of"),
        ({"cert": "service.key", "key": "service.key"}, "tls_cert", "no certificate and plain key in PEM"),
        (
            {"cert": "service.pem", "key": "service.key", "client_ca": "ca.key"},
            "tls_client_ca",
            "holds no certificates",
        ),
    ],
)
def test_files_that_do_not_fit_are_told_before_anything_listens(settings, field, reason):
    with pytest.raises(InvalidInputError, match=reason) as caught:
        ServerTls(**{name: authority("ours") / file for name, file in settings.items()}).credentials()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"cert": "client.pem"}, "key"), ({"cert": "client.pem", "key": "client.key"}, "cert"), ({"ca": "ca.key"}, "ca")],
)
def test_what_a_caller_brings_is_checked_too(settings, field):
    with pytest.raises(InvalidInputError) as caught:
        Access(**{name: authority("ours") / file for name, file in settings.items()}).credentials()
    assert caught.value.field == field


def test_a_token_crosses_no_network_in_the_clear(tmp_path):
    path = tmp_path / "token"
    path.write_text("secret-of-camera-1")
    expected = (("authorization", "Bearer secret-of-camera-1"),)
    assert Access(token_file=path).metadata("127.0.0.1:50051") == expected
    assert access(token_file=path).metadata("receiver:50053") == expected
    with pytest.raises(InvalidInputError, match="would go to receiver:50053 in the clear"):
        Access(token_file=path).metadata("receiver:50053")


@pytest.mark.parametrize(
    ("listen", "tls", "warned"), [("0.0.0.0:0", False, True), ("0.0.0.0:0", True, False), ("127.0.0.1:0", False, False)]
)
async def test_listening_to_others_without_tls_is_told(capsys, listen, tls, warned):
    async with serving(replace(CONFIG, listen=listen, tls=server_tls() if tls else ServerTls())):
        pass
    assert ("warning: listening on 0.0.0.0:0 without TLS" in capsys.readouterr().err) == warned
