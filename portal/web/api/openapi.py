"""The OpenAPI document of the JSON API."""

from typing import Any, get_args

from handlers.contract.names import MODEL_NAME, VERSION
from handlers.contract.tolerances import Precision
from portal.catalog.variants import Unmeasured
from portal.deployments.scale import MOST_WORKERS
from portal.web.change_requests import MOST_LINES
from portal.web.uploads import LARGEST_BATCH

Schema = dict[str, Any]


def _object(**properties: Schema) -> Schema:
    """An object with exactly these fields."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: Schema) -> Schema:
    return {"oneOf": [schema, {"type": "null"}]}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number", "minimum": 0}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
PRECISION: Schema = {"enum": list(get_args(Precision))}
TIME: Schema = {"type": "string", "format": "date-time"}
MODEL: Schema = {"type": "string", "pattern": f"^{MODEL_NAME.pattern}$"}
VERSION_TEXT: Schema = {"type": "string", "pattern": f"^{VERSION.pattern}$"}
IMAGE: Schema = {"type": "string", "format": "binary", "contentMediaType": "image/*"}
OPTIONAL_MODEL: Schema = {
    "model": {**MODEL, "description": "The default model if absent."},
    "version": {**VERSION_TEXT, "description": "The default version of the model if absent."},
}

_PREDICTION: dict[str, Schema] = {
    "class_name": TEXT,
    "confidence": {**SHARE, "description": "Calibrated probability of that class."},
    "probabilities": {**_map(SHARE), "description": "All classes, the most probable first."},
    "uncertain": {**FLAG, "description": "Below the model's own threshold: look yourself."},
    "model": MODEL,
    "version": VERSION_TEXT,
    "inference_time": {**NUMBER, "description": "Seconds."},
}

_EXPLANATION: dict[str, Schema] = {
    "class_name": TEXT,
    "confidence": _PREDICTION["confidence"],
    "heat": {
        **_list({**_list({"type": "number"}), "minItems": 4, "maxItems": 64}),
        "minItems": 4,
        "maxItems": 64,
        "description": (
            "A square map of the image (16 x 16 places), rows from top to bottom. Each number says "
            "by how much seeing that place raises the log-odds (natural logarithm) of the class, "
            "on average over what else of the image is hidden: exp of it multiplies the odds. "
            "Negative: the place speaks against the class. -18.4..18.4."
        ),
    },
    "model": MODEL,
    "version": VERSION_TEXT,
    "inference_time": _PREDICTION["inference_time"],
}

_LATENCY = _object(median_ms=NUMBER, p95_ms=NUMBER, threads=COUNT, cpu=TEXT)

_REPORT = _object(
    model=MODEL,
    version=VERSION_TEXT,
    created=TIME,
    git_commit=TEXT,
    size_bytes=COUNT,
    model_sha256=TEXT,
    split=_object(name=TEXT, sha256=_map(TEXT), tiles=_map(COUNT)),
    labels=_list(TEXT),
    accuracy=_ref("Figure"),
    macro_f1=_ref("Figure"),
    macro_precision=SHARE,
    macro_recall=SHARE,
    per_class=_list(_object(label=TEXT, precision=SHARE, recall=SHARE, f1=SHARE, support=COUNT)),
    confusion={**_list(_list(COUNT)), "description": "Rows are the truth, as in labels."},
    calibration=_object(
        temperature=NUMBER,
        ece_before=SHARE,
        ece=SHARE,
        reliability=_list(
            _object(low=SHARE, high=SHARE, count=COUNT, confidence=SHARE, accuracy=SHARE)
        ),
    ),
    uncertainty=_object(
        threshold=SHARE,
        flagged=SHARE,
        errors_caught=SHARE,
        accuracy_of_the_rest=SHARE,
        accuracy_of_flagged=SHARE,
    ),
    latency=_LATENCY,
    confused_pairs=_list(_object(first=TEXT, second=TEXT, count=COUNT)),
    mistakes=_list(_object(file=TEXT, truth=TEXT, predicted=TEXT, confidence=SHARE)),
    robustness=_list(_object(name=TEXT, accuracy=SHARE, macro_f1=SHARE, ece=SHARE)),
    augmented=_or_null(_object(views=COUNT, accuracy=SHARE, macro_f1=SHARE)),
    int8=_or_null(
        _object(
            accuracy=_ref("Figure"),
            macro_f1=_ref("Figure"),
            ece=SHARE,
            agreement=SHARE,
            size_bytes=COUNT,
            model_sha256=TEXT,
            latency=_LATENCY,
        )
    ),
    training=_object(
        best_epoch=COUNT,
        val_accuracy=SHARE,
        weights_origin=TEXT,
        teacher_origin=TEXT,
        git_commit=TEXT,
        history=_list(
            _object(epoch=COUNT, loss=NUMBER, accuracy=SHARE, val_loss=NUMBER, val_accuracy=SHARE)
        ),
    ),
)

_SCHEMAS: dict[str, Schema] = {
    "Error": _object(error=_object(code=TEXT, message=TEXT, request_id=TEXT)),
    "Prediction": _object(**_PREDICTION),
    "Answer": _object(**_PREDICTION, request_id=TEXT),
    "Explanation": _object(**_EXPLANATION, request_id=TEXT),
    "BatchAnswer": _object(
        results=_list(
            _object(
                name={**TEXT, "description": "Of the file, as it was sent."},
                prediction=_or_null(_ref("Prediction")),
                error=_or_null(
                    _object(
                        status={
                            "type": "integer",
                            "description": "What a request with this image alone would get.",
                        },
                        code=TEXT,
                        message=TEXT,
                    )
                ),
            )
        ),
        request_id=TEXT,
    ),
    "Health": _object(
        status={"enum": ["ok", "loading", "degraded", "down"]},
        models_loaded=_list(
            _object(
                model=TEXT,
                version=TEXT,
                default=FLAG,
                asleep={**FLAG, "description": "Lazy, and without workers until it is asked."},
                workers_ready=COUNT,
                workers=COUNT,
            )
        ),
        failures=_list(_object(model=_or_null(TEXT), version=_or_null(TEXT), reason=TEXT)),
    ),
    "Figure": {
        **_object(value=SHARE, low=SHARE, high=SHARE),
        "description": "A share and its 95 % bootstrap interval.",
    },
    "ReportSummary": _object(
        model=MODEL,
        version=VERSION_TEXT,
        created=TIME,
        split=TEXT,
        test_tiles=COUNT,
        accuracy=_ref("Figure"),
        macro_f1=_ref("Figure"),
        ece=SHARE,
        size_bytes=COUNT,
        latency_ms=NUMBER,
        spatial_accuracy=_or_null(_ref("Figure")),
        files={
            **_list(
                _object(
                    precision=PRECISION,
                    served={**FLAG, "description": "A served version is known to have it."},
                    accuracy=_ref("Figure"),
                    macro_f1=_ref("Figure"),
                    ece=SHARE,
                    size_bytes=COUNT,
                    latency_ms=NUMBER,
                )
            ),
            "description": "Each of its files; the figures above are those in fp32.",
        },
    ),
    "Reports": _object(
        reports=_list(_ref("ReportSummary")),
        unreadable=_list(_object(folder=TEXT, reason=TEXT)),
    ),
    "Report": _REPORT,
    "Release": _object(
        report=_ref("Report"),
        spatial=_or_null(_ref("Report")),
        spatial_problem=_or_null(TEXT),
        card={**_or_null(TEXT), "description": "The model card, in Markdown."},
    ),
}

_MEASURED = {
    **_or_null(
        _object(
            precision=PRECISION,
            accuracy=SHARE,
            low=SHARE,
            high=SHARE,
            macro_f1=SHARE,
            ece=SHARE,
            latency_ms=NUMBER,
        )
    ),
    "description": "What its report says of the file that it is served with.",
}
_UNMEASURED: Schema = {
    "enum": list(get_args(Unmeasured)),
    "description": "Why there are no figures, or empty.",
}
_MAYBE_MODEL: Schema = {"type": "string", "description": "Empty where the name does not say it."}
_SCHEMAS |= {
    "Models": _object(
        models=_list(
            _object(
                model=MODEL,
                default=_or_null(TEXT),
                previous={**_or_null(TEXT), "description": "Where a roll back goes."},
                versions=_list(_ref("Version")),
            )
        ),
        archives={
            **_list(
                _object(
                    file=TEXT,
                    model=_MAYBE_MODEL,
                    version=TEXT,
                    sha256=TEXT,
                    size_bytes=COUNT,
                    classes=COUNT,
                    report=_MEASURED,
                    unmeasured=_UNMEASURED,
                    problem={**TEXT, "description": "Why it cannot be deployed, or empty."},
                )
            ),
            "description": "In the model store, not served.",
        },
        problem={**TEXT, "description": "Why a part cannot be seen now, or empty."},
    ),
    "Version": _object(
        model=MODEL,
        version=TEXT,
        state={"enum": ["ready", "loading", "broken", "sleeping", "missing", "unknown"]},
        reason=TEXT,
        default=FLAG,
        previous=FLAG,
        recorded={**FLAG, "description": "It comes back when TorchServe starts again."},
        lazy=FLAG,
        workers_ready=COUNT,
        workers_wanted=COUNT,
        sha256=TEXT,
        size_bytes=COUNT,
        deployed_by=TEXT,
        deployed_at={**TEXT, "description": "UTC, ISO 8601; empty if not recorded."},
        report=_MEASURED,
        unmeasured=_UNMEASURED,
    ),
    "Job": _object(
        id=TEXT,
        action={"enum": ["deploy", "promote", "roll back", "scale", "retire"]},
        model=MODEL,
        version=VERSION_TEXT,
        operator=TEXT,
        started=TIME,
        state={"enum": ["running", "done", "failed"]},
        reason={**TEXT, "description": "What happened, or which step failed and why."},
        finished=_or_null(TIME),
        steps=_list(_object(name=TEXT, state={"enum": ["running", "done", "failed"]}, detail=TEXT)),
    ),
    "JobAnswer": _object(job=_ref("Job")),
    "JobBegun": _object(job=_ref("Job"), request_id=TEXT),
    "Jobs": _object(jobs=_list(_ref("Job"))),
    "Stored": _object(
        archive=_object(
            file=TEXT,
            model=MODEL,
            version=VERSION_TEXT,
            size_bytes=COUNT,
            sha256=TEXT,
            model_sha256=TEXT,
            labels=_list(TEXT),
            workers=COUNT,
            startup_timeout=NUMBER,
        ),
        request_id=TEXT,
    ),
    "Audit": _object(
        audit=_list(
            _object(
                at=TIME,
                actor={**TEXT, "description": "operator, token, or portal for its own acts."},
                action=TEXT,
                model=_or_null(TEXT),
                version=_or_null(TEXT),
                outcome={"enum": ["done", "failed", "refused"]},
                reason=TEXT,
            )
        )
    ),
}

_ERRORS = {
    400: "The request cannot be read, carries no image, or names a host that the portal is not.",
    401: "Only an operator may do this, or the portal is closed: log in, or send the token.",
    403: "Nobody may do this while the portal has no password and no token; or a forged form.",
    404: "No such model, version, archive, job or report.",
    409: "The state of the model does not allow it, or another change is under way.",
    413: "An image, all images together, their number, or an archive is too large.",
    415: "Not an image in a format that is read.",
    422: "An image that cannot be classified, or an archive that cannot be used.",
    500: "A mistake of the portal.",
    501: "This version of the model cannot explain.",
    502: "The model server answered wrongly.",
    503: "Busy, loading or down: try again after Retry-After seconds.",
    504: "No answer in time.",
}
_EVERYWHERE = (400, 401, 403)  # the host, and who asks, are checked before anything else
_RETRY_AFTER = {"Retry-After": {"schema": COUNT, "description": "Seconds."}}


def _json(schema: Schema, description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _answers(schema: str, description: str, *errors: int) -> dict[str, Any]:
    """The answers of an operation: 200, these errors, and those that every operation has."""
    answers = {"200": _json(_ref(schema), description)}
    for status in sorted({*errors, *_EVERYWHERE}):
        answers[str(status)] = _json(_ref("Error"), _ERRORS[status])
        if status == 401:
            answers["401"]["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
        if status == 503:
            answers["503"]["headers"] = _RETRY_AFTER
    return answers


def _query(name: str) -> dict[str, Any]:
    schema = dict(OPTIONAL_MODEL[name])
    return {
        "name": name,
        "in": "query",
        "description": schema.pop("description"),
        "schema": schema,
    }


def _in_path(name: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _form(field: str, schema: Schema) -> dict[str, Any]:
    return {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {field: schema, **OPTIONAL_MODEL},
                "required": [field],
            }
        }
    }


_ONE_IMAGE = {
    "required": True,
    "content": {
        **_form("file", IMAGE),
        "application/octet-stream": {"schema": {}},
        "image/*": {"schema": {}},
    },
}


def _begins(operation: str, summary: str, description: str, fields: Schema | None) -> Schema:
    """An operation that begins a job."""
    version = [] if operation == "roll_back" else [_in_path("version", VERSION_TEXT)]
    body = {"type": "object", "properties": fields or {}}
    return {
        "post": {
            "operationId": operation,
            "tags": ["Models"],
            "summary": summary,
            "description": f"{description} For operators. The answer names a job; ask for it "
            "until it has ended.",
            "security": [{"token": []}, {"login": []}],
            "parameters": [_in_path("model", MODEL), *version],
            "requestBody": {
                "required": operation == "scale",
                "content": {
                    "application/json": {"schema": body},
                    "application/x-www-form-urlencoded": {"schema": body},
                },
            },
            "responses": {
                "202": {
                    **_json(_ref("JobBegun"), "It is under way."),
                    "headers": {"Location": {"schema": TEXT, "description": "The job."}},
                },
                **{
                    status: answer
                    for status, answer in _answers(
                        "JobBegun", "", 400, 401, 403, 404, 409, 413, 415, 422, 500, 502, 503
                    ).items()
                    if status != "200"
                },
            },
        }
    }


_WORKERS: Schema = {"type": "integer", "minimum": 1, "maximum": MOST_WORKERS}
_HEALTH = "What is served, by which workers, and what failed."
_WORD = _object(status=TEXT)

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "EuroSAT land use",
        "version": "1.0",
        "description": (
            "Classifies Sentinel-2 tiles, 64 x 64 pixels of 10 m. Every answer has the header "
            "X-Request-ID; a client's own is kept."
        ),
    },
    "paths": {
        "/api/predict": {
            "post": {
                "operationId": "predict",
                "tags": ["Predict"],
                "summary": "Classify one image",
                "description": (
                    "JPEG, PNG, GIF, TIFF, WEBP or BMP, as a form or, fastest, as the whole body. "
                    "While many clients ask, an image waits for its turn; only where too many wait "
                    "already is it answered 503."
                ),
                "parameters": [_query("model"), _query("version")],
                "requestBody": _ONE_IMAGE,
                "responses": _answers(
                    "Answer", "The class.", 400, 404, 413, 415, 422, 500, 502, 503, 504
                ),
            }
        },
        "/api/explain": {
            "post": {
                "operationId": "explain",
                "tags": ["Predict"],
                "summary": "Say which places of an image speak for its class",
                "description": (
                    "Takes the same as /api/predict, and as long as hundreds of predictions; few "
                    "are worked on at a time, more are answered 503."
                ),
                "parameters": [_query("model"), _query("version")],
                "requestBody": _ONE_IMAGE,
                "responses": _answers(
                    "Explanation", "The map.", 400, 404, 413, 415, 422, 500, 501, 502, 503, 504
                ),
            }
        },
        "/api/predict/batch": {
            "post": {
                "operationId": "predict_batch",
                "tags": ["Predict"],
                "summary": f"Classify up to {LARGEST_BATCH} images",
                "description": (
                    "Each image has its own result or error, in the order of the files; a bad one "
                    "harms no other. Only where the model itself cannot be asked is the answer of "
                    "the whole request an error."
                ),
                "parameters": [_query("model"), _query("version")],
                "requestBody": {
                    "required": True,
                    "content": _form(
                        "files", {**_list(IMAGE), "minItems": 1, "maxItems": LARGEST_BATCH}
                    ),
                },
                "responses": _answers(
                    "BatchAnswer", "A result for each image.", 400, 404, 413, 500, 502, 503, 504
                ),
            }
        },
        "/api/health": {
            "get": {
                "operationId": "health",
                "tags": ["Health"],
                "summary": "Whether everything works",
                "responses": {
                    **_answers("Health", f"All works. {_HEALTH}"),
                    "503": _json(_ref("Health"), f"Something does not. {_HEALTH}"),
                },
            }
        },
        "/api/health/live": {
            "get": {
                "operationId": "live",
                "tags": ["Health"],
                "summary": "Whether the portal answers",
                "responses": {"200": _json(_WORD, "It does.")},
            }
        },
        "/api/health/ready": {
            "get": {
                "operationId": "ready",
                "tags": ["Health"],
                "summary": "Whether the default model answers",
                "responses": {
                    "200": _json(_WORD, "It does."),
                    "503": _json(_WORD, "It does not."),
                },
            }
        },
        "/api/reports": {
            "get": {
                "operationId": "reports",
                "tags": ["Reports"],
                "summary": "What was measured on every released model, in short",
                "responses": _answers("Reports", "The models, and what is not readable.", 500),
            }
        },
        "/api/reports/{model}/{version}": {
            "get": {
                "operationId": "report",
                "tags": ["Reports"],
                "summary": "Everything that was measured on one model",
                "parameters": [_in_path("model", MODEL), _in_path("version", VERSION_TEXT)],
                "responses": _answers("Release", "Its reports and its card.", 404, 500),
            }
        },
        "/api/models": {
            "get": {
                "operationId": "models",
                "tags": ["Models"],
                "summary": "Every model, version and archive",
                "responses": _answers("Models", "What is served and what is stored.", 500, 503),
            }
        },
        "/api/models/{model}/{version}/deploy": _begins(
            "deploy",
            "Load an archive of the model store and serve it",
            "It is served only if it loads and answers the golden tiles as its report says; else "
            "everything is as before. The first version of a model becomes the default.",
            {
                "default": {**FLAG, "description": "Make it the default."},
                "workers": {**_WORKERS, "description": "As its archive says if absent."},
                "unreported": {**FLAG, "description": "Serve it although it has no report."},
            },
        ),
        "/api/models/{model}/{version}/promote": _begins(
            "promote", "Make a version the default", "It answers the golden tiles first.", None
        ),
        "/api/models/{model}/{version}/scale": _begins(
            "scale",
            "Give a version another number of workers",
            "Each worker costs about half a gigabyte of memory.",
            {"workers": _WORKERS},
        ),
        "/api/models/{model}/{version}/retire": _begins(
            "retire", "Serve a version no more", "It answers first what it was sent.", None
        ),
        "/api/models/{model}/rollback": _begins(
            "roll_back", "Make the previous default the default again", "As a promote.", None
        ),
        "/api/archives": {
            "post": {
                "operationId": "upload_archive",
                "tags": ["Models"],
                "summary": "Put an archive into the model store",
                "description": (
                    "<model>-<version>.mar as `make archive` builds it. It is checked without "
                    "running anything of it, and not served by that. For operators."
                ),
                "security": [{"token": []}, {"login": []}],
                "requestBody": {
                    "required": True,
                    "content": {
                        "multipart/form-data": {
                            "schema": {
                                "type": "object",
                                "properties": {"file": {"type": "string", "format": "binary"}},
                                "required": ["file"],
                            }
                        }
                    },
                },
                "responses": {
                    "201": _json(_ref("Stored"), "What it holds."),
                    **{
                        status: answer
                        for status, answer in _answers(
                            "Stored", "", 400, 401, 403, 409, 413, 422, 500, 502, 503
                        ).items()
                        if status != "200"
                    },
                },
            }
        },
        "/api/jobs": {
            "get": {
                "operationId": "jobs",
                "tags": ["Models"],
                "summary": "The changes since the portal started, the newest first",
                "responses": _answers("Jobs", "The jobs.", 500),
            }
        },
        "/api/jobs/{job}": {
            "get": {
                "operationId": "job",
                "tags": ["Models"],
                "summary": "One change and its steps",
                "parameters": [_in_path("job", {"type": "string", "pattern": "^[0-9a-f]{12}$"})],
                "responses": _answers("JobAnswer", "The job.", 404, 500),
            }
        },
        "/api/audit": {
            "get": {
                "operationId": "audit",
                "tags": ["Models"],
                "summary": "Who did what when, the newest first",
                "parameters": [
                    {
                        "name": "limit",
                        "in": "query",
                        "description": "100 if absent.",
                        "schema": {"type": "integer", "minimum": 1, "maximum": MOST_LINES},
                    }
                ],
                "responses": _answers("Audit", "The lines.", 400, 500, 503),
            }
        },
    },
    # Reading and predicting are open unless PORTAL_PUBLIC is false, so that {} may be enough.
    "security": [{}, {"token": []}, {"login": []}],
    "components": {
        "schemas": _SCHEMAS,
        "securitySchemes": {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "The token that `make token` showed.",
            },
            "login": {
                "type": "apiKey",
                "in": "cookie",
                "name": "landuse_session",
                "description": (
                    "The session that begins at /login, for 12 hours; five wrong passwords within "
                    "a minute are answered 429 with Retry-After. A request that changes something "
                    "also carries the header X-CSRFToken, with the value of the field csrf_token "
                    "in the forms of the pages."
                ),
            },
        },
    },
}
