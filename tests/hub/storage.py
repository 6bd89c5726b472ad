"""Large files: the LFS protocol, the other origin that serves them, and the way to xet."""

from __future__ import annotations

import hashlib
import subprocess
import time
from typing import TYPE_CHECKING

from tests.hub.repo import File, git_id
from tests.hub.wire import Call, Refusal, Reply, json_reply

if TYPE_CHECKING:
    from tests.hub.server import Hub


def lfs_step(call: Call, name: str, step: str) -> Reply:
    """The two requests around an LFS upload; who may only open a pull request may upload too."""
    call.signed_in()
    repo, told, hub = call.repo(name), call.json, call.hub
    if step == "verify":
        if len(hub.objects.get(told["oid"], b"")) != told["size"]:
            raise Refusal(404, "EntryNotFound", f"object {told['oid']} is not here in full")
        return json_reply({})
    objects = []
    for one in told["objects"]:
        objects.append({"oid": one["oid"], "size": one["size"]})
        if one["oid"] not in hub.objects:
            hub.expected.add(one["oid"])
            verify = f"{hub.endpoint}/{repo.web}.git/info/lfs/objects/verify"
            actions = {"upload": f"{hub.storage}/lfs/{one['oid']}", "verify": verify}
            objects[-1]["actions"] = {key: {"href": href} for key, href in actions.items()}
    return json_reply({"transfer": "basic", "objects": objects})


def lfs_object(call: Call, oid: str) -> Reply:
    """The storage behind the Hub: it takes only what was announced, and gives what was resolved."""
    hub = call.hub
    if call.method == "PUT":
        if oid not in hub.expected or hashlib.sha256(call.body).hexdigest() != oid:
            raise Refusal(403, "Forbidden", f"{oid} is not what was announced")
        hub.objects[oid] = call.body
        hub.uploads.append(oid)
        return Reply(headers={"ETag": f'"{git_id(call.body)}"'})
    if oid not in hub.served:
        raise Refusal(403, "Forbidden", f"{oid} was never resolved")
    headers = {"ETag": f'"{oid}"', "Content-Type": "application/octet-stream"}
    try:
        return Reply(200, hub.served[oid].content, headers)
    except subprocess.CalledProcessError:
        message = "the xet store is locked by the client that wrote to it"
        raise Refusal(503, "Locked", message) from None


def xet_token(call: Call) -> Reply:
    url, token, end = call.hub.xet.url, "xet-test-token", int(time.time()) + 3600
    headers = {
        "X-Xet-Cas-Url": url,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(end),
    }
    return json_reply({"casUrl": url, "accessToken": token, "exp": end}, headers=headers)


def large_file(hub: Hub, oid: str) -> File:
    """An object uploaded as LFS, or else one that a client has put into the xet store."""
    if oid in hub.objects:
        content = hub.objects[oid]
        return File(oid, len(content), True, lambda: content)
    xet_hash, size = hub.xet.objects().get(oid, ("", 0))
    if not xet_hash:
        message = "an LFS pointer pointed to a file that does not exist"
        raise Refusal(400, "BadRequest", message)
    return File(oid, size, True, lambda: hub.xet.read(xet_hash, size), xet_hash)
