"""From a scene to a land-use map: ``/api/scenes``."""

from typing import Annotated, Any

from flask import Response, send_file, url_for
from flask_openapi.blueprint import APIBlueprint
from pydantic import BaseModel, WithJsonSchema

from portal.scenes.manager import PREVIEWS
from portal.scenes.outputs import OUTPUTS
from portal.scenes.records import unknown
from portal.web import scene_requests as scenes
from portal.web.api.operations import Binary, answers, fields, files, form
from portal.web.auth.operators import from_no_other_site
from portal.web.context import services
from portal.web.scene_answers import DifferencesAnswer, SceneAnswer, ScenesAnswer

blueprint = APIBlueprint("scenes", __name__, url_prefix="/api", abp_tags=[{"name": "Scenes"}])

_NUMBER = WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{32}$"})
_FILES = {
    **dict.fromkeys(PREVIEWS, "image/png"),
    **{name: media_type for name, (media_type, _) in OUTPUTS.items()},
}


class OneScene(BaseModel):
    """A scene in a path."""

    scene: Annotated[str, _NUMBER]


class OneFile(OneScene):
    """A file of a scene in a path."""

    file: Annotated[str, WithJsonSchema({"type": "string", "enum": [*_FILES]})]


class TwoScenes(OneScene):
    """Two scenes in a path."""

    other: Annotated[str, _NUMBER]


class SceneFile(scenes.SceneFields):
    """A form with a scene."""

    file: Binary


Accepted = tuple[SceneAnswer, int, dict[str, str]]

_AT_THE_SCENE = {"Location": {"description": "The scene.", "schema": {"type": "string"}}}


def _taken(sentence: str, *failures: int) -> dict[str | int, Any]:
    return answers(
        SceneAnswer, sentence, *failures, 500, 503, 507, status=202, headers=_AT_THE_SCENE
    )


@blueprint.post(
    "/scenes",
    operation_id="send_scene",
    request_body=form(SceneFile),
    responses=_taken("It was looked at, and waits for its turn.", 404, 413, 415, 422),
)
@from_no_other_site(streamed=True)
def send() -> Accepted:
    """Map a scene: a GeoTIFF, JPEG 2000, PNG or JPEG of Sentinel-2, up to 1 GiB.

    Answered with what was found, what is assumed and how long it will take; ask for the scene until
    it is done. With start=false it waits for /start. It belongs to whoever sent it: a browser, or
    a program, that keeps the cookie of the answer (curl -c jar -b jar), or an operator. 415: no
    raster that is read; 422: one that cannot be mapped; 503: too many wait; 507: no room.
    """
    return _accepted(scenes.begin())


@blueprint.post(
    "/scenes/<scene>/start",
    operation_id="start_scene",
    request_body=fields(scenes.SceneFields, {"look": "l1c"}),
    responses=_taken("It waits for its turn.", 404, 409, 413, 415, 422),
)
@from_no_other_site()
def start(path: OneScene) -> Accepted:
    """Map a scene that was sent with start=false.

    What is asked in another way than before is looked at again first; with start=false that is all.
    """
    return _accepted(scenes.start(path.scene))


@blueprint.post(
    "/scenes/<scene>/again",
    operation_id="map_scene_again",
    request_body=fields(scenes.SceneFields, {"model": "resnet18"}),
    responses=_taken("It waits for its turn, as a scene of its own.", 404, 413, 415, 422),
)
@from_no_other_site()
def again(path: OneScene) -> Accepted:
    """Map the file of a scene once more, with another model or read in another way.

    What is not said is asked as before.
    """
    return _accepted(scenes.again(path.scene))


@blueprint.get(
    "/scenes",
    operation_id="scenes",
    responses=answers(ScenesAnswer, "The scenes.", 500, 503),
)
def listed() -> ScenesAnswer:
    """Your scenes, the newest first."""
    return {"scenes": scenes.own()}


@blueprint.get(
    "/scenes/<scene>",
    operation_id="scene",
    responses=answers(SceneAnswer, "The scene.", 404, 500, 503),
)
def one(path: OneScene) -> SceneAnswer:
    """One scene: how far its map is, and where its files are."""
    return scenes.get(path.scene)


@blueprint.delete(
    "/scenes/<scene>",
    operation_id="remove_scene",
    responses=answers(SceneAnswer, "As it is now, or was at last.", 404, 500, 503),
)
@from_no_other_site()
def remove(path: OneScene) -> SceneAnswer:
    """Cancel a scene that waits or is being mapped; forget any other, with its files."""
    return scenes.remove(path.scene)


@blueprint.get(
    "/scenes/<scene>/<file>",
    operation_id="scene_file",
    responses=files(set(_FILES.values()), "The file.", 404, 409, 500, 503),
)
def output(path: OneFile) -> Response:
    """A file of a map, or a preview: the same part as it is and as the model sees it.

    Which there are, the scene tells; a scene without a place on Earth has no GeoJSON.
    """
    if path.file not in _FILES:
        raise unknown()
    row = services().scenes.get(path.scene, scenes.owner_keys())
    file = services().scenes.file(row, path.file)
    stem = row.name.rpartition(".")[0] or row.name
    try:
        return send_file(
            file, mimetype=_FILES[path.file], download_name=f"{stem}-{path.file}", etag=False
        )
    except FileNotFoundError as error:  # deleted since
        raise unknown() from error


@blueprint.get(
    "/scenes/<scene>/differences/<other>",
    operation_id="scene_differences",
    responses=answers(DifferencesAnswer, "By pairs of classes.", 404, 409, 422, 500, 503),
)
def differences(path: TwoScenes) -> DifferencesAnswer:
    """Where two maps of the same file differ: cells and hectares by pairs of classes."""
    return scenes.differences(path.scene, path.other)


blueprint.before_request(scenes.allow_scenes)


def _accepted(scene: SceneAnswer) -> Accepted:
    """202: what was found, and where to look how far it is."""
    return scene, 202, {"Location": url_for("scenes.one", scene=scene["id"])}
