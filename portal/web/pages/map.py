"""The page that turns a scene into a land-use map: what was found, the progress, the map."""

from importlib.resources import files
from pathlib import Path

from flask import Blueprint, Response, abort, redirect, render_template, request, send_file, url_for
from werkzeug.wrappers import Response as Redirection

from portal.scenes.outputs import OUTPUTS
from portal.scenes.terms import STRIDES
from portal.web import scene_requests as scenes
from portal.web.auth.operators import from_no_other_site
from portal.web.context import services
from portal.web.pages.home import choices
from portal.web.rendering import wording
from portal.web.scene_answers import SceneAnswer

blueprint = Blueprint("map_pages", __name__, url_prefix="/map")
blueprint.before_request(scenes.allow_scenes)

SAMPLE = Path(__file__).parents[1] / "static" / "samples" / "scenes" / "aberystwyth.tif"
LEAFLET = ("leaflet.js", "leaflet.css")  # of all that the package brings

for words in (wording.facts, wording.duration, wording.moment, wording.size):
    blueprint.add_app_template_filter(words)


@blueprint.get("")
def home() -> str:
    """Choose a scene, or one that is here already."""
    own = services().settings
    return render_template(
        "map_pages/home.html",
        scenes=scenes.own(),
        wording=wording,
        max_scene_bytes=own.max_scene_bytes,
        kept_days=own.scenes_kept_days,
        seen_by_all=own.scenes_public,
    )


@blueprint.post("")
@from_no_other_site(streamed=True)
def upload() -> Redirection:
    """Take a scene; the form says that it is only looked at."""
    return _show(scenes.begin()["id"])


@blueprint.post("/sample")
@from_no_other_site()
def sample() -> Redirection:
    """Map the sample at once."""
    return _show(scenes.begin_with(SAMPLE)["id"])


@blueprint.get("/<scene>")
def scene(scene: str) -> str:
    """What was found in a scene, the progress of its map, or the map."""
    shown = scenes.get(scene)
    compared = request.args.get("with")
    return render_template(
        "map_pages/scene.html",
        scene=shown,
        others=_others(shown) if shown["state"] == "done" else [],
        compared=scenes.get(compared) if compared else None,
        differences=scenes.differences(scene, compared) if compared else None,
        choices=choices(),
        strides=STRIDES,
        outputs=OUTPUTS,
        wording=wording,
    )


@blueprint.post("/<scene>/start")
@from_no_other_site()
def start(scene: str) -> Redirection:
    """Map a scene that was looked at, or look at it again with other options."""
    return _show(scenes.start(scene)["id"])


@blueprint.post("/<scene>/again")
@from_no_other_site()
def again(scene: str) -> Redirection:
    """Map the same file with another model or other options."""
    return _show(scenes.again(scene)["id"])


@blueprint.post("/<scene>/cancel")
@from_no_other_site()
def cancel(scene: str) -> Redirection:
    """Stop a scene that waits or is being mapped; any other stays as it is."""
    if scenes.get(scene)["state"] in ("queued", "running"):
        scenes.remove(scene)
    return _show(scene)


@blueprint.post("/<scene>/remove")
@from_no_other_site()
def remove(scene: str) -> Redirection:
    """Forget a scene; one that is under way is stopped only."""
    scenes.remove(scene)
    return redirect(url_for("map_pages.home", _anchor="scenes"), code=303)


@blueprint.get("/leaflet/<file>")
def leaflet(file: str) -> Response:
    """A file of Leaflet, from an installed package, so that nothing is asked from outside."""
    if file not in LEAFLET:
        abort(404)
    return send_file(str(files("js_lib_leaflet") / "static" / "js_lib_leaflet" / file))


def _show(scene: str) -> Redirection:
    return redirect(url_for("map_pages.scene", scene=scene), code=303)


def _others(shown: SceneAnswer) -> list[SceneAnswer]:
    """The other maps of what seems to be the same scene, with the same cells."""

    def cells(scene: SceneAnswer) -> tuple[object, ...]:
        return scene["state"], scene["name"], scene["stride"], scene["rows"], scene["columns"]

    return [
        other
        for other in scenes.own()
        if other["id"] != shown["id"] and cells(other) == cells(shown)
    ]
