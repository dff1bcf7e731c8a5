"""The page to sign in: without Gradio, whose own knows no limit on tries and hands the session to scripts of all sites
(Gradio 6.31)."""

from __future__ import annotations

import re
from html import escape
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from webui.pages.plain import plain
from webui.trust.accounts import Accounts, TooManyTries
from webui.trust.limits import network, waiting

SESSION: Final = "mesh_session"
_MONTH: Final = 30 * 24 * 3600
# Where one may go back to: a page of ours. Never `//elsewhere`.
_PAGE: Final = re.compile(r"/[a-z-]*(\?[\w=&%.~-]*)?")
_FORM: Final = """<p>{title}: enter with the name and the password that you were given.</p>{told}
<form method="post" action="{root}/login"><input type="hidden" name="to" value="{to}">
<label for="name">Name</label><input id="name" name="name" value="{name}" autocomplete="username" required {first}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required {second}>
<button>Sign in</button></form>"""


class Login:
    """ASGI middleware: who has not signed in sees the form where pages are. `root`: the path under which they are."""

    def __init__(self, app: ASGIApp, accounts: Accounts, title: str, root: str = "") -> None:
        self._app = app
        self._accounts = accounts
        self._title = title
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] == "/healthz":
            await self._app(scope, receive, send)
            return
        answer = await self._answer(Request(scope, receive))
        await (answer or self._app)(scope, receive, send)

    async def _answer(self, request: Request) -> Response | None:
        """What is answered here."""
        match request.url.path, request.method:
            case "/login", "POST":
                return await self._enter(request)
            case "/logout", _:
                answer = RedirectResponse(f"{self._root}/", 303)
                answer.delete_cookie(SESSION)
                return answer
            case path, "GET" if self.who(request) is None and (path == "/login" or _wants_page(request)):
                query = f"?{request.url.query}" if request.url.query else ""
                return self._form(401, "/" if path == "/login" else path + query)
            case "/login", _:
                return RedirectResponse(f"{self._root}/", 303)
            case _:
                return None

    def who(self, request: Request) -> str | None:
        """The name that the browser has signed in with."""
        return self._accounts.who(request.cookies.get(SESSION, ""))

    async def _enter(self, request: Request) -> Response:
        fields = parse_qs((await request.body()).decode("utf-8", "replace"))
        name, password, to = (fields.get(each, [""])[0] for each in ("name", "password", "to"))
        address = network(request.client.host) if request.client else ""
        try:
            token = self._accounts.enter(name.strip(), password, address)
        except TooManyTries as error:
            told = f"Too many tries have failed: wait {waiting(error.seconds)}, then try again."
            return self._form(429, to, told, name, {"Retry-After": str(max(1, round(error.seconds)))})
        if token is None:
            return self._form(401, to, "The name or the password is wrong.", name)
        answer = RedirectResponse(self._root + _safe(to), 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(SESSION, token, _MONTH, secure=secure, httponly=True, samesite="lax")
        return answer

    def _form(
        self, status: int, to: str, told: str = "", name: str = "", headers: dict[str, str] | None = None
    ) -> Response:
        body = _FORM.format(
            title=escape(self._title),
            told=f'<p role="alert">{escape(told)}</p>' if told else "",
            root=escape(self._root),
            to=escape(_safe(to)),
            name=escape(name),
            first="" if name else "autofocus",
            second="autofocus" if name else "",
        )
        return HTMLResponse(plain("Sign in", body), status, {"Cache-Control": "no-store", **(headers or {})})


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _safe(to: str) -> str:
    return to if _PAGE.fullmatch(to) else "/"
