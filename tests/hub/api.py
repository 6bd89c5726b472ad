"""What the local Hub answers: one function per family of routes, from a request to a reply."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from tests.hub.discussions import discussions
from tests.hub.repo import File, Repo, entries, file_of, is_large, tree
from tests.hub.storage import large_file, lfs_object, lfs_step, xet_token
from tests.hub.wire import Call, Refusal, Reply, found_commit, json_reply

_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in
                      (".safetensors", ".npz", ".parquet")).encode()  # fmt: skip


def answer(call: Call) -> Reply:
    """The reply to any request; raises ``Refusal`` for the others."""
    match call.parts:
        case ["api", "whoami-v2"]:
            return _whoami(call)
        case ["api", "repos", "create"]:
            return _create_repo(call)
        case ["api", "repos", "delete"]:
            return _delete_repo(call)
        case ["api", "validate-yaml"]:
            return _validate_card(call)
        case ["api", "models" | "datasets" as kind, org, name, *rest]:
            return _repo_api(call, f"{kind}/{org}/{name}", rest)
        case ["lfs", oid, *_]:
            return lfs_object(call, oid)
        case ["datasets", org, name, "resolve", revision, *path]:
            return _resolve(call, f"datasets/{org}/{name}", revision, "/".join(path))
        case [org, name, "resolve", revision, *path]:
            return _resolve(call, f"models/{org}/{name}", revision, "/".join(path))
        case ["datasets", org, name, "info", "lfs", "objects", step] if name.endswith(".git"):
            return lfs_step(call, f"datasets/{org}/{name[:-4]}", step)
        case [org, name, "info", "lfs", "objects", step] if name.endswith(".git"):
            return lfs_step(call, f"models/{org}/{name[:-4]}", step)
    raise Refusal(404, "EntryNotFound", f"no route for {call.method} {call.target}")


def _whoami(call: Call) -> Reply:
    user = call.signed_in()
    orgs = [
        {"type": "org", "name": org} for org, users in call.hub.members.items() if user in users
    ]
    token = {"accessToken": {"displayName": "test", "role": "write"}}
    return json_reply({"type": "user", "name": user, "fullname": user, "orgs": orgs, "auth": token})


def _named(call: Call) -> str:
    """The repository a body names, if the user may write in that namespace."""
    user, told = call.signed_in(), call.json
    name = f"{told.get('type') or 'model'}s/{told.get('organization') or user}/{told['name']}"
    if not call.hub.may_write(user, name):
        raise Refusal(403, "Forbidden", f"You don't have the rights to create or delete {name}")
    return name


def _create_repo(call: Call) -> Reply:
    name = _named(call)
    there = call.hub.repos.get(name)
    if there is not None:
        error = {"error": "You already created this repo", "url": call.hub.page(there)}
        return json_reply(error, 409, {"X-Error-Code": "Conflict"})
    repo = call.hub.repo(name)
    repo.private = call.json.get("visibility") == "private" or bool(call.json.get("private"))
    first = {".gitattributes": _ATTRIBUTES}
    repo.commit(first, message="initial commit", author=call.signed_in())
    return json_reply({"url": call.hub.page(repo)})


def _delete_repo(call: Call) -> Reply:
    if call.hub.repos.pop(_named(call), None) is None:
        raise Refusal(404, "RepoNotFound", "Repository not found")
    return json_reply({})


def _validate_card(call: Call) -> Reply:
    text, errors = call.json["content"], list(call.hub.card_errors)
    begun = text.startswith("---")
    if begun and "\n---" not in text:
        errors.append("the metadata block has no end")
    warnings = [] if begun else [{"message": "empty or missing yaml metadata in repo card"}]
    reply = {"errors": [{"message": error} for error in errors], "warnings": warnings}
    return json_reply(reply, 400 if errors else 200, {"X-Error-Code": "BadCard"} if errors else {})


def _repo_api(call: Call, name: str, rest: list[str]) -> Reply:
    revision = rest[1] if len(rest) > 1 else "main"
    match (call.method, *rest):
        case ("GET",) | ("GET", "revision", _):
            return _info(call, call.repo(name), revision)
        case ("GET", "tree", _, *path):
            return _tree(call, call.repo(name), revision, "/".join(path))
        case ("POST", "paths-info", _):
            return _paths_info(call, call.repo(name), revision)
        case ("GET", "commits", _):
            return _commits(call.repo(name), revision)
        case ("GET", "refs"):
            return _refs(call, call.repo(name))
        case ("POST" | "DELETE", "tag" | "branch" as kind, _):
            return _change_ref(call, call.repo(name, write=True), kind, revision)
        case ("POST", "preupload", _):
            return _preupload(call, _for_commit(call, name, revision), revision)
        case ("GET", "xet-write-token", *_):
            _for_commit(call, name, revision)
            return xet_token(call)
        case ("GET", "xet-read-token", _):
            call.repo(name, content=True)
            return xet_token(call)
        case ("POST", "commit", _):
            return _commit(call, _for_commit(call, name, revision), revision)
        case ("PUT", "settings"):
            return _settings(call, call.repo(name, write=True))
        case ("GET", "auth-check", *what):
            call.repo(name, content=True, write=what == ["write"])
            return json_reply({})
        case ("GET" | "POST", "discussions", *what):
            return discussions(call, call.repo(name), what)
    raise Refusal(404, "EntryNotFound", f"no route for {call.method} {call.target}")


def _for_commit(call: Call, name: str, revision: str) -> Repo:
    """Everybody with a token may open a pull request, and its author add to it."""
    repo = call.repo(name)
    num = revision.removeprefix("refs/pr/")
    pull = repo.discussion(int(num)) if num.isdigit() else None
    own = pull is not None and pull.author == call.signed_in()
    return call.repo(name, write=not (own or call.flag("create_pr")))


def _info(call: Call, repo: Repo, revision: str) -> Reply:
    commit = found_commit(repo, revision)
    siblings: list[dict[str, Any]] = []
    for path, file in sorted(commit.files.items()):
        siblings.append({"rfilename": path})
        if call.flag("blobs"):
            siblings[-1] |= {"blobId": file.oid, "size": file.size}
        if call.flag("blobs") and file.large:
            size = len(file.pointer)
            siblings[-1]["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": size}
    return json_reply({"_id": "0" * 24, "id": repo.id, "author": repo.id.split("/")[0],
                  "sha": commit.sha, "private": repo.private, "gated": repo.gated,
                  "disabled": False, "lastModified": commit.date, "createdAt": repo.created,
                  "downloads": 0, "likes": 0, "tags": [], "siblings": siblings})  # fmt: skip


def _tree(call: Call, repo: Repo, revision: str, folder: str) -> Reply:
    commit = found_commit(repo, revision)
    found = tree(commit.files, folder, call.flag("recursive"))
    if folder and not found:
        _no_entry(folder, commit.sha)
    start, size = int(call.query.get("cursor", 0)), call.hub.page_size
    headers = {}
    if start + size < len(found):
        path = urlsplit(call.target).path
        query = f"recursive={call.flag('recursive')}&cursor={start + size}"
        headers["Link"] = f'<{call.hub.endpoint}{path}?{query}>; rel="next"'
    return json_reply(found[start : start + size], headers=headers)


def _paths_info(call: Call, repo: Repo, revision: str) -> Reply:
    form = call.json if call.body.startswith(b"{") else parse_qs(call.body.decode())
    return json_reply(entries(found_commit(repo, revision).files, form.get("paths", [])))


def _commits(repo: Repo, revision: str) -> Reply:
    found_commit(repo, revision)
    return json_reply([
        {"id": one.sha, "title": one.title, "message": one.message, "date": one.date,
         "authors": [{"user": one.author}]}
        for one in repo.history(revision)
    ])  # fmt: skip


def _refs(call: Call, repo: Repo) -> Reply:
    kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "converts": "refs/convert/"}
    if call.flag("include_prs"):
        kinds["pullRequests"] = "refs/pr/"
    return json_reply({
        kind: [
            {"name": ref.removeprefix(start), "ref": ref, "targetCommit": sha}
            for ref, sha in repo.refs.items()
            if ref.startswith(start)
        ]
        for kind, start in kinds.items()
    })  # fmt: skip


def _change_ref(call: Call, repo: Repo, kind: str, given: str) -> Reply:
    """For a new tag the path gives the revision and the body the name; else the path the name."""
    new_tag = kind == "tag" and call.method == "POST"
    name, start = call.json["tag"] if new_tag else given, call.json.get("startingPoint", "main")
    ref = f"refs/{'tags' if kind == 'tag' else 'heads'}/{name}"
    if name.startswith("refs/") or (call.method == "DELETE" and ref == "refs/heads/main"):
        raise Refusal(400, "BadRequest", f"Invalid reference for a {kind}: {name}")
    if call.method == "DELETE":
        if repo.refs.pop(ref, None) is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {name}")
        return json_reply({})
    sha = found_commit(repo, given if new_tag else start).sha
    if ref in repo.refs:
        raise Refusal(409, "Conflict", f"{kind.capitalize()} reference exists already: {name}")
    repo.refs[ref] = sha
    return json_reply({}, 201)


def _preupload(call: Call, repo: Repo, revision: str) -> Reply:
    commit = repo.find(revision)
    there = commit.files if commit else {}
    files = []
    for told in call.json["files"]:
        path, sample = told["path"], base64.b64decode(told["sample"])
        large = is_large(path, told["size"], sample)
        files.append({"path": path, "uploadMode": "lfs" if large else "regular",
                      "shouldIgnore": False})  # fmt: skip
        if path in there:
            files[-1]["oid"] = there[path].sha256 if there[path].large else there[path].oid
    return json_reply({"files": files})


def _commit(call: Call, repo: Repo, revision: str) -> Reply:
    lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
    if ref not in repo.refs and (repo.commits or revision != "main"):
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    head, parent = repo.refs.get(ref), header.get("parentCommit")
    new_pull = call.flag("create_pr")
    if parent and not new_pull and not (head or "").startswith(parent):
        message = "A commit has happened since. Please refresh and try again."
        raise Refusal(412, "PreconditionFailed", message)
    start = found_commit(repo, _full(repo, parent)).sha if parent and new_pull else head
    files = _changed(call, dict(repo.commits[start].files) if start else {}, lines)
    title, text, author = header["summary"], header.get("description", ""), call.signed_in()
    url = None
    if new_pull:
        pull = repo.open_pull(title, author, status="open", base=ref, start=start, text=text)
        ref, url = pull.ref, f"{call.hub.page(repo)}/discussions/{pull.num}"
    commit = repo.add_commit(files, ref, title=title, message=text, author=author)
    for one in repo.discussions:
        if one.pull and one.ref == ref:
            one.event("commit", author, {"subject": title, "oid": commit.sha})
    page = f"{call.hub.page(repo)}/commit/{commit.sha}"
    return json_reply({"success": True, "commitOid": commit.sha, "commitUrl": page,
                  "pullRequestUrl": url, "hookOutput": ""})  # fmt: skip


def _changed(call: Call, files: dict[str, File], lines: list[dict[str, Any]]) -> dict[str, File]:
    """The files after the operations of a commit."""
    for line in lines:
        value = line["value"]
        match line["key"]:
            case "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = file_of(value["path"], content, large=False)
            case "lfsFile":
                files[value["path"]] = large_file(call.hub, value["oid"])
            case "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
            case "deletedFolder":
                prefix = value["path"].rstrip("/") + "/"
                gone = [path for path in files if path.startswith(prefix)]
                if not gone:
                    raise Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
                for path in gone:
                    del files[path]
    return files


def _settings(call: Call, repo: Repo) -> Reply:
    told = call.json
    if "visibility" in told:
        repo.private = told["visibility"] == "private"
    repo.gated = told.get("gated", repo.gated)
    return json_reply({"private": repo.private, "gated": repo.gated})


def _resolve(call: Call, name: str, revision: str, path: str) -> Reply:
    repo = call.repo(name, content=True)
    commit = found_commit(repo, revision)
    file = commit.files.get(path) or _no_entry(path, commit.sha)
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{file.oid}"'}
    if not file.large:
        headers["Content-Type"] = "application/octet-stream"
        return Reply(200, file.content, headers)
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    headers["Location"] = f"{call.hub.storage}/lfs/{file.sha256}/{quote(path.split('/')[-1])}"
    if file.xet_hash:
        route = f"{call.hub.endpoint}/api/{name}/xet-read-token/{commit.sha}"
        headers |= {"X-Xet-Hash": file.xet_hash, "Link": f'<{route}>; rel="xet-auth"'}
    call.hub.served[file.sha256] = file
    return Reply(302, b"Found", headers)


def _full(repo: Repo, short: str) -> str:
    return next((sha for sha in repo.commits if sha.startswith(short)), short)


def _no_entry(path: str, sha: str) -> Any:
    message = f'Entry "{path}" does not exist'
    raise Refusal(404, "EntryNotFound", message, X_Repo_Commit=sha)
