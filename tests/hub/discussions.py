"""Discussions and pull requests, as the local Hub answers for them."""

from __future__ import annotations

from typing import Any

from tests.hub.repo import Discussion, Repo
from tests.hub.wire import Call, Refusal, Reply, json_reply


def discussions(call: Call, repo: Repo, what: list[str]) -> Reply:
    if not what:
        return _list_discussions(call, repo) if call.method == "GET" else _discuss(call, repo)
    one = repo.discussion(int(what[0])) if what[0].isdigit() else None
    if one is None:
        raise Refusal(404, "EntryNotFound", f"no discussion {what[0]}")
    if call.method == "GET":
        return json_reply(_details(repo, one))
    author = call.signed_in()
    owner = call.hub.may_write(author, repo.name)
    match what[1:]:
        case ["comment"]:
            return json_reply({"newMessage": one.comment(author, call.json["comment"])})
        case ["title"] if owner or author == one.author:
            change = {"from": one.title, "to": call.json["title"]}
            one.title = change["to"]
            return json_reply({"newTitle": one.event("title-change", author, change)})
        case ["status"] if owner or author == one.author:
            if one.status == "merged":
                raise Refusal(400, "BadRequest", "This pull request is merged")
            if call.json.get("comment"):
                one.comment(author, call.json["comment"])
            return json_reply({"newStatus": one.set_status(author, call.json["status"])})
        case ["merge"] if owner and one.pull:
            return _merge(call, repo, one)
    raise Refusal(403, "Forbidden", f"{author} may not do this to discussion {one.num}")


def _merge(call: Call, repo: Repo, pull: Discussion) -> Reply:
    if pull.status != "open":
        raise Refusal(400, "BadRequest", f"Cannot merge a pull request that is {pull.status}")
    if conflicts := repo.conflicts(pull):
        raise Refusal(409, "Conflict", f"conflicting files: {', '.join(sorted(conflicts))}")
    author = call.signed_in()
    if call.json and call.json.get("comment"):
        pull.comment(author, call.json["comment"])
    repo.merge(pull, author)
    return json_reply({})


def _list_discussions(call: Call, repo: Repo) -> Reply:
    kind, status = call.query.get("type", "all"), call.query.get("status", "all")
    author = call.query.get("author")
    found = [
        _summary(repo, one)
        for one in reversed(repo.discussions)
        if kind in ("all", "pull_request" if one.pull else "discussion")
        and (status == "all" or (status == "open") == (one.status in ("open", "draft")))
        and author in (None, one.author)
    ]
    start = int(call.query.get("p", 0)) * 10
    return json_reply(
        {"discussions": found[start : start + 10], "count": len(found), "start": start}
    )


def _discuss(call: Call, repo: Repo) -> Reply:
    """A discussion opened on its own; a pull request opened so is a draft without commits."""
    author, told = call.signed_in(), call.json
    status = "draft" if told["pullRequest"] else "open"
    base, text = "refs/heads/main", told["description"]
    one = repo.open_pull(
        told["title"], author, status=status, base=base, start=repo.refs.get(base), text=text
    )
    one.pull = told["pullRequest"]
    if not one.pull:
        repo.refs.pop(one.ref, None)
    return json_reply({"num": one.num, "pullRequest": one.pull})


def _summary(repo: Repo, one: Discussion) -> dict[str, Any]:
    return {"num": one.num, "title": one.title, "status": one.status, "createdAt": one.date,
            "author": {"name": one.author}, "isPullRequest": one.pull,
            "repo": {"name": repo.id, "type": repo.kind[:-1]}}  # fmt: skip


def _details(repo: Repo, one: Discussion) -> dict[str, Any]:
    details = {**_summary(repo, one), "events": one.events}
    if one.pull:
        details["filesWithConflicts"] = sorted(repo.conflicts(one))
        details["changes"] = {"base": one.base, "mergeCommitId": one.merged}
        details["diff"] = repo.diff(one)
    return details
