from portal import errors


def test_the_codes_and_statuses_that_programs_know() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PortalError)
    ]
    assert {kind.code: (kind.status, kind.retry_after) for kind in kinds} == {
        "internal_error": (500, None),
        "bad_request": (400, None),
        "no_image": (400, None),
        "unknown_host": (400, None),
        "not_logged_in": (401, None),
        "wrong_token": (401, None),
        "management_off": (403, None),
        "forged_form": (403, None),
        "too_many_logins": (429, 60),
        "not_your_scene": (403, None),
        "unknown_scene": (404, None),
        "scene_not_ready": (409, None),
        "no_room": (507, None),
        "unknown_model": (404, None),
        "unknown_report": (404, None),
        "unreadable_report": (404, None),
        "unknown_tile": (404, None),
        "too_large": (413, None),
        "too_many_tiles": (413, None),
        "unsupported_image": (415, None),
        "unusable_image": (422, None),
        "nothing_to_see": (422, None),
        "unknown_scale": (422, None),
        "unsupported_scene": (415, None),
        "unusable_scene": (422, None),
        "damaged_scene": (422, None),
        "no_explanations": (501, None),
        "takes_no_hints": (501, None),
        "makes_no_maps": (501, None),
        "bad_model_server_answer": (502, None),
        "model_server_down": (503, 5),
        "model_not_ready": (503, 5),
        "busy": (503, 1),
        "too_slow": (504, None),
        "unknown_archive": (404, None),
        "unknown_job": (404, None),
        "model_busy": (409, 5),
        "not_possible": (409, None),
        "bad_archive": (422, None),
        "change_failed": (502, None),
        "store_unavailable": (503, 60),
        "state_unavailable": (503, 10),
    }
