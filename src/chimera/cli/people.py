"""`chimera bootstrap`: the first organisation of an installation, and its administrator; and
`chimera user`: what administrators do with the people of theirs."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from chimera.cli.connection import ApiKey, Server, connected, use_running_databases
from chimera.cli.failure import WRONG_USE, Failure
from chimera.cli.tables import show, when

app = typer.Typer(
    help="People of the organisation: accounts, invitations, locks, sessions.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Who = Annotated[str, typer.Argument(metavar="WHO", help="User name, e-mail address or id.")]
RoleName = Annotated[str, typer.Option("--role", help="admin, user or viewer.")]


def bootstrap(
    organisation: Annotated[str, typer.Option(prompt=True, help="Its name.")],
    email: Annotated[str, typer.Option(prompt=True, help="Of the administrator.")],
    username: Annotated[str, typer.Option(prompt=True, help="Of the administrator.")],
    password: Annotated[
        str,
        typer.Option(
            envvar="CHIMERA_BOOTSTRAP_PASSWORD",
            prompt=True,
            hide_input=True,
            confirmation_prompt=True,
            help="15 characters or more; asked for unless in the environment.",
        ),
    ],
    operator: Annotated[
        bool, typer.Option(help="May also operate the installation: stuck shards, kill switch.")
    ] = True,
) -> None:
    """Create an organisation, its administrator and an API key.

    The key is printed once. Works on CHIMERA_DATABASE_URL, else on the database of a running `chimera up`. Everything else is
    made over the API by somebody who is signed in.
    """
    use_running_databases()
    if not os.environ.get("CHIMERA_DATABASE_URL"):
        raise Failure("CHIMERA_DATABASE_URL is not set, and no `chimera up` runs here", WRONG_USE)

    import asyncio

    from chimera.identity.bootstrap import bootstrap as make
    from chimera.settings import load_settings

    made = asyncio.run(
        make(
            load_settings(),
            organisation=organisation,
            email=email,
            username=username,
            password=password,
            is_superuser=operator,
            with_api_key=True,
        )
    )
    typer.echo(f"organisation  {made.org_id}\nuser          {made.user_id}")
    typer.echo(f"API key       {made.api_key}\n\nThe key is shown only now; keep it safe.")


@app.command("list")
def list_people(deleted: bool = False, server: Server = "", api_key: ApiKey = "") -> None:
    """List the organisation's people."""
    from chimera.v1.identity_pb2 import ListUsersRequest, ListUsersResponse, Role, UserState

    with connected(server, api_key) as client:
        pages = client.pages(ListUsersRequest(show_deleted=deleted), ListUsersResponse)
        rows = [
            (
                user.id,
                user.username,
                user.email,
                Role.Name(user.role).removeprefix("ROLE_").lower(),
                "deleted"
                if user.HasField("deleted_at")
                else UserState.Name(user.state).removeprefix("USER_STATE_").lower(),
                "yes" if user.has_second_factor else "no",
                when(user.last_login_at),
                when(user.locked_until),
            )
            for page in pages
            for user in page.users
        ]
    headings = ("id", "name", "address", "role", "state", "factor", "last login", "locked until")
    show(headings, rows, "nobody")


@app.command()
def create(
    email: str,
    username: str,
    role: RoleName = "user",
    display_name: Annotated[str, typer.Option("--name", help="As it is shown.")] = "",
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Make an account. The person gets a mail to choose their own password."""
    from chimera.v1.identity_pb2 import CreateUserRequest, CreateUserResponse

    request = CreateUserRequest(
        email=email, username=username, role=_role(role), display_name=display_name
    )
    with connected(server, api_key) as client:
        made = client.call(request, CreateUserResponse)
    typer.echo(f"{made.user.id}  {made.user.username}: a mail goes to {made.user.email}")


@app.command()
def invite(
    email: Annotated[
        str, typer.Argument(metavar="[EMAIL]", help="Who gets the code by mail; else it is shown.")
    ] = "",
    role: RoleName = "user",
    uses: Annotated[int, typer.Option("--uses", min=1, help="How many people may use it.")] = 1,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """Invite somebody into the organisation."""
    from chimera.v1.organisations_pb2 import CreateInvitationRequest, CreateInvitationResponse

    request = CreateInvitationRequest(email=email, role=_role(role), uses_max=uses)
    with connected(server, api_key) as client:
        made = client.call(request, CreateInvitationResponse)
    until = when(made.invitation.expires_at)
    typer.echo(f"{made.invitation.id}  open until {until}")
    typer.echo(made.code or f"a mail with the code goes to {made.invitation.email}")


@app.command("reset-password")
def reset_password(who: Who, server: Server = "", api_key: ApiKey = "") -> None:
    """Mail somebody a link to choose a new password."""
    from chimera.v1.identity_pb2 import SendPasswordResetRequest, SendPasswordResetResponse

    with connected(server, api_key) as client:
        user = _find(client, who)
        client.call(SendPasswordResetRequest(user_id=user.id), SendPasswordResetResponse)
    typer.echo(f"a mail goes to {user.email}")


@app.command()
def unlock(who: Who, server: Server = "", api_key: ApiKey = "") -> None:
    """Lift a lock after too many failed logins."""
    from chimera.v1.identity_pb2 import UnlockUserRequest, UnlockUserResponse

    with connected(server, api_key) as client:
        user = _find(client, who)
        client.call(UnlockUserRequest(user_id=user.id), UnlockUserResponse)
    typer.echo(f"unlocked {user.username}")


@app.command()
def sessions(
    who: Who,
    end: Annotated[bool, typer.Option("--end", help="End all of them.")] = False,
    server: Server = "",
    api_key: ApiKey = "",
) -> None:
    """List somebody's sessions in this organisation, or end them."""
    from chimera.v1.identity_pb2 import (
        EndUserSessionsRequest,
        EndUserSessionsResponse,
        ListUserSessionsRequest,
        ListUserSessionsResponse,
    )

    with connected(server, api_key) as client:
        user = _find(client, who)
        if end:
            request = EndUserSessionsRequest(user_id=user.id)
            ended = client.call(request, EndUserSessionsResponse).ended
            typer.echo(f"ended {ended} sessions of {user.username}")
            return
        pages = client.pages(ListUserSessionsRequest(user_id=user.id), ListUserSessionsResponse)
        rows = [
            (s.id, s.ip_address, s.user_agent, when(s.created_at), when(s.last_used_at))
            for page in pages
            for s in page.sessions
        ]
    show(("id", "address", "client", "since", "last used"), rows, "no sessions")


def _role(name: str) -> Any:
    from chimera.v1.identity_pb2 import Role

    if name not in ("admin", "user", "viewer"):
        raise Failure(f"--role is admin, user or viewer, not {name}", WRONG_USE)
    return Role.Value(f"ROLE_{name.upper()}")


def _find(client: Any, who: str) -> Any:
    """The user of that name, address or id in the organisation."""
    from chimera.v1.identity_pb2 import ListUsersRequest, ListUsersResponse

    wanted = who.strip().lower()
    for page in client.pages(ListUsersRequest(), ListUsersResponse):
        for user in page.users:
            if wanted in (user.id, user.username, user.email):
                return user
    raise Failure(f"nobody here is called {who}")
