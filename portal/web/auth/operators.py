"""Who may manage: an operator who logged in with the password, or a script with the token."""

import functools
import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from flask import Flask, abort, g, redirect, request, session, url_for
from flask_login import LoginManager, UserMixin, current_user, login_user, logout_user
from flask_wtf.csrf import CSRFError, CSRFProtect, ValidationError, validate_csrf
from pydantic import SecretStr

from portal.errors import ForgedForm, ManagementOff, NotLoggedIn, WrongToken
from portal.web.context import services
from portal.web.error_handlers import wants_json
from portal.web.middleware import PROBE_ENDPOINTS

LIFETIME = timedelta(hours=12)  # of a login
ALWAYS_OPEN = (*PROBE_ENDPOINTS, "static", "login.page", "login.log_in", "login.log_out")

View = TypeVar("View", bound=Callable[..., Any])

_csrf = CSRFProtect()


class Operator(UserMixin):  # type: ignore[misc]
    """The one who knows the password; what the session remembers changes with it."""

    def __init__(self, mark: str) -> None:
        self.id = mark


def install(app: Flask, secret_key: SecretStr | None, *, cookie_secure: bool) -> None:
    """Give ``app`` its sessions; refuse forged forms and, in closed mode, strangers."""
    app.secret_key = secret_key.get_secret_value() if secret_key else secrets.token_urlsafe(32)
    app.config.update(
        SESSION_COOKIE_NAME="landuse_session",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=cookie_secure,
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=LIFETIME,
        WTF_CSRF_CHECK_DEFAULT=False,  # _check does it, and operator_required
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session to which the token belongs
        # It would ask for a Referer, which our pages tell browsers not to send.
        WTF_CSRF_SSL_STRICT=False,
    )
    LoginManager(app, add_context_processor=False).user_loader(_load)
    _csrf.init_app(app)
    app.before_request(_check)
    app.context_processor(_words)


def operator_required(view: View) -> View:
    """Let only operators into a view, and no form that another site made them send.

    A page sends the hidden field ``csrf_token``, filled by ``csrf_token()`` in the template, or the
    header X-CSRFToken; calls with the token need neither. Nothing of the body is read before it is
    known who asks. Goes directly below the route.
    """

    @functools.wraps(view)
    def checked(*args: object, **kwargs: object) -> object:
        _require_operator()
        if operator_name() == "operator":
            _csrf.protect()
        return view(*args, **kwargs)

    _csrf.exempt(checked)  # from the check of every request: it has its own
    return cast("View", checked)


def changes_nothing(view: View) -> View:
    """Take a POST for what it is: a question. It needs no token against forged requests."""
    return cast("View", _csrf.exempt(view))


def from_no_other_site(*, streamed: bool = False) -> Callable[[View], View]:
    """Take a change from our own pages and from programs, but not from the page of another site.

    For what needs no operator. Browsers say with every such request where it comes from; programs
    do not, and no page can make one act. A form that a browser sends over HTTP, by another name
    than localhost, has no origin, as our pages ask for: it needs the token of a form.

    Args:
        streamed: the body is too large to be read as a form; the view calls ``check_form_token``.
    """

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def checked(*args: object, **kwargs: object) -> object:
            site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
            if site is None and origin == "null":
                g.needs_form_token = True
                if not streamed:
                    _csrf.protect()
            elif site is None and origin is not None:
                site = "same-origin" if urlsplit(origin).netloc == request.host else "cross-site"
            if site not in (None, "same-origin", "none"):
                raise ForgedForm(
                    "This was sent by a page of another site. Send it from a page of this portal, "
                    "or with a program such as curl."
                )
            return view(*args, **kwargs)

        return cast("View", _csrf.exempt(checked))

    return decorate


def check_form_token(token: str | None) -> None:
    """Return unless the request needs the token of a form, and this is none; see above."""
    if g.get("needs_form_token"):
        try:
            validate_csrf(token or request.headers.get("X-CSRFToken"))
        except ValidationError as error:
            raise CSRFError(error.args[0]) from error


def operator_name() -> str:
    """Who is at work, for the audit: "operator" with the password, "token" with the token.

    Only for views behind ``operator_required``.
    """
    name = current_operator()
    assert name is not None, "this view lacks @operator_required"
    return name


def current_operator() -> str | None:
    """As ``operator_name``, but None when the client is no operator.

    A token decides alone: what it asks for is never done on behalf of a cookie.
    """
    if "operator" not in g:
        if (token := _bearer()) is not None:
            g.operator = "token" if services().credentials.is_token(token) else None
        else:
            g.operator = "operator" if current_user.is_authenticated else None
    return cast("str | None", g.operator)


def _require_operator() -> None:
    """Return only if the client is an operator; a page leads to the login, the API answers 401."""
    if current_operator() is not None:
        return
    credentials = services().credentials
    if not credentials.any:
        raise ManagementOff(
            "Management is off: the portal has neither a password nor a token. Run `make password` "
            "for a login or `make token` for scripts, or set PORTAL_PASSWORD_HASH or "
            "PORTAL_TOKEN_HASH."
        )
    if _bearer() is not None:
        raise WrongToken("This is not the portal's token. `make token` makes a new one.")
    if wants_json() or not credentials.has_password:
        raise NotLoggedIn(
            "This needs an operator. Send the token that `make token` showed as the header "
            "Authorization: Bearer <token>, or log in at /login."
        )
    # to the login page, and from there back if the request can be repeated
    back = request.full_path.removesuffix("?") if request.method in ("GET", "HEAD") else None
    abort(redirect(url_for("login.page", next=back), 303))


def log_in() -> None:
    """Begin a session for the operator, with nothing of the one before."""
    session.clear()
    session.permanent = True
    session["until"] = time.time() + LIFETIME.total_seconds()
    login_user(Operator(services().credentials.password_mark))


def log_out() -> None:
    """End the operator's session."""
    logout_user()
    session.clear()


def _load(mark: str) -> Operator | None:
    """The operator of a session that is neither too old nor of a former password."""
    credentials = services().credentials
    current = credentials.has_password and mark == credentials.password_mark
    return Operator(mark) if current and time.time() < session.get("until", 0) else None


def _bearer() -> str | None:
    """The token that the request carries; other schemes may belong to a proxy."""
    given = request.authorization
    return (given.token or "") if given is not None and given.type == "bearer" else None


def _check() -> None:
    if request.endpoint not in (None, *ALWAYS_OPEN) and not services().settings.public:
        _require_operator()
    _csrf.protect(apply_exemptions=True)


def _words() -> dict[str, object]:
    """What every template knows: the operator, and whether there is a login."""
    own, operator = services(), current_operator()
    return {
        "operator": operator,
        "has_login": own.credentials.has_password,
        "readable": own.settings.public or operator is not None,
    }
