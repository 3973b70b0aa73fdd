"""Signs webhooks with Stripe's own Python library and sends them: stripe_webhooks.py URL SECRET.

The last line it prints is the list of the events that were to be stored.
"""

import json
import sys
import time
import urllib.error
import urllib.request

import stripe

URL, SECRET = sys.argv[1:]
sign = stripe.WebhookSignature.generate_signature_header
# A proxy from the environment must not be used for a server on loopback.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def post(body, header):
    headers = {"content-type": "application/json"}
    if header is not None:
        headers["stripe-signature"] = header
    request = urllib.request.Request(URL, body.encode(), headers)
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code


def snapshot(id):
    return {
        "id": id,
        "object": "event",
        "api_version": "2026-09-30.endive",
        "created": int(time.time()),
        "data": {"object": {"id": "in_1", "object": "invoice", "customer": "cus_1", "note": "ünïcode ✓"}},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": "invoice.created",
    }


def thin(id):
    return {
        "id": id,
        "object": "v2.core.event",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        "livemode": False,
        "type": "v1.billing.meter.error_report_triggered",
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
    }


taken = []
for make in (snapshot, thin):
    now = int(time.time())
    for indent in (None, 2):
        # Stripe sends indented bodies as well as compact ones: the signature covers the text, not its meaning.
        body = json.dumps(make(f"evt_{make.__name__}"), ensure_ascii=False, indent=indent)
        header = sign(body, SECRET)
        stripe.WebhookSignature.verify_header(body, header, SECRET, 300)
        if make is snapshot:
            assert stripe.Webhook.construct_event(body, header, SECRET).id == "evt_snapshot"
        assert post(body, header) == 200, (make, indent)
    taken.append(f"evt_{make.__name__}")

    body = json.dumps(make("evt_refused"))
    header = sign(body, SECRET)
    refused = {
        "unsigned": (body, None),
        "tampered": (body.replace("_1", "_2"), header),
        "old": (body, sign(body, SECRET, timestamp=now - 400)),
        "future": (body, sign(body, SECRET, timestamp=now + 400)),
        "wrong secret": (body, sign(body, SECRET + "x")),
        "other time": (body, header.replace(f"t={now}", f"t={now - 100}").replace(f"t={now + 1}", f"t={now - 100}")),
    }
    for why, (text, signature) in refused.items():
        status = post(text, signature)
        assert status == 400, (make, why, status)

print(json.dumps(taken))
