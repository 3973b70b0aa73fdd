"""Uses Stripe's own Python library against the fake Stripe: official_client.py BASE_URL SECRET_KEY."""

import http.server
import json
import sys
import threading
import time
import urllib.request

import stripe

stripe.api_base, stripe.api_key = sys.argv[1], sys.argv[2]
stripe.max_network_retries = 0

customer = stripe.Customer.create(name="Somebody", metadata={"team": "7"})
assert stripe.Customer.retrieve(customer.id).metadata["team"] == "7"
assert [one.id for one in stripe.Customer.list(limit=1).auto_paging_iter()] == [customer.id]

meter = stripe.billing.Meter.create(
    display_name="Calls",
    event_name="calls",
    default_aggregation={"formula": "sum"},
    customer_mapping={"type": "by_id", "event_payload_key": "stripe_customer_id"},
    value_settings={"event_payload_key": "value"},
)
assert meter.status == "active"

now = int(time.time())


def send(identifier, value):
    return stripe.billing.MeterEvent.create(
        event_name="calls",
        payload={"stripe_customer_id": customer.id, "value": value},
        identifier=identifier,
        timestamp=now,
    )


assert send("first", "25").identifier == "first"
send("second", "17")
try:
    send("first", "25")
except stripe.InvalidRequestError as error:
    assert error.http_status == 400
    assert error.user_message == "An event already exists with identifier first.", error.user_message
else:
    raise AssertionError("the same identifier was taken twice")


def total():
    minute = now - now % 60
    page = stripe.billing.Meter.list_event_summaries(
        meter.id, customer=customer.id, start_time=minute, end_time=minute + 60
    )
    assert page.data[0].object == "billing.meter_event_summary"
    return page.data[0].aggregated_value


assert total() == 42
stripe.billing.MeterEventAdjustment.create(event_name="calls", type="cancel", cancel={"identifier": "second"})
assert total() == 25

try:
    stripe.Customer.retrieve("cus_none")
except stripe.InvalidRequestError as error:
    assert (error.http_status, error.code, error.param) == (404, "resource_missing", "id")
else:
    raise AssertionError("a customer that is not there was found")

try:
    stripe.Customer.retrieve(customer.id, expand=["sources"])
except stripe.APIError as error:
    assert (error.http_status, error.json_body["error"]["code"]) == (501, "fake_stripe_unsupported")
    assert error.user_message == "fake-stripe does not support expand=sources", error.user_message
else:
    raise AssertionError("what is not supported was answered")

stripe.api_key = "sk_test_wrong"
try:
    stripe.Customer.list()
except stripe.AuthenticationError as error:
    assert error.http_status == 401
else:
    raise AssertionError("a wrong key was let in")

assert stripe.Customer.delete(customer.id, api_key=sys.argv[2]).deleted

# The life of a subscription, with a webhook of it.
stripe.api_key = sys.argv[2]
received = []
arrived = threading.Event()


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        received.append((body, self.headers["Stripe-Signature"]))
        self.send_response(200)
        self.end_headers()
        arrived.set()

    def log_message(self, *arguments):
        pass


receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=receiver.serve_forever, daemon=True).start()


def control(path, body):
    request = urllib.request.Request(
        f"{sys.argv[1]}/control/{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return json.load(opener.open(request))


url = f"http://127.0.0.1:{receiver.server_port}/"
control("webhooks", {"url": url, "secrets": ["whsec_script"], "kinds": ["customer.subscription.created"]})

subscriber = stripe.Customer.create(name="Somebody else")
product = stripe.Product.create(name="Calls")
price = stripe.Price.create(
    product=product.id,
    currency="usd",
    recurring={"interval": "month", "usage_type": "metered", "meter": meter.id},
    billing_scheme="tiered",
    tiers_mode="volume",
    tiers=[{"up_to": 10, "unit_amount": 50}, {"up_to": "inf", "unit_amount_decimal": "25.5"}],
    lookup_key="calls",
    expand=["tiers"],
)
assert price.tiers[1].up_to is None
assert stripe.Price.list(lookup_keys=["calls"]).data[0].id == price.id
seat = stripe.Price.create(product=product.id, currency="usd", recurring={"interval": "month"}, unit_amount=3000)
subscription = stripe.Subscription.create(
    customer=subscriber.id,
    items=[{"price": price.id}, {"price": seat.id, "quantity": 2}],
    billing_mode={"type": "flexible"},
    expand=["latest_invoice"],
)
assert subscription.status == "active"
assert subscription.latest_invoice.amount_due == 6000
item = subscription["items"].data[0]
assert item.current_period_end > item.current_period_start
assert [one.id for one in stripe.SubscriptionItem.list(subscription=subscription.id).auto_paging_iter()][0] == item.id

assert arrived.wait(30)
event = stripe.Webhook.construct_event(*received[0], "whsec_script")
assert event.type == "customer.subscription.created" and event.data.object.id == subscription.id
try:
    stripe.Webhook.construct_event(received[0][0] + b" ", received[0][1], "whsec_script")
except stripe.SignatureVerificationError:
    pass
else:
    raise AssertionError("a tampered body was accepted")

stripe.billing.MeterEvent.create(
    event_name="calls", payload={"stripe_customer_id": subscriber.id, "value": "12"}, identifier="third"
)
preview = stripe.Invoice.create_preview(subscription=subscription.id)
assert preview.lines.data[0].quantity == 12 and preview.lines.data[0].amount == 306
# The second of the period's start has to be over before it can be billed up to a moment after it.
control("clock", {"advance_ms": 60_000})
changed = stripe.Subscription.modify(
    subscription.id,
    items=[{"id": item.id, "deleted": True}, {"price": stripe.Price.create(
        product=product.id,
        currency="usd",
        recurring={"interval": "month", "usage_type": "metered", "meter": meter.id},
        billing_scheme="tiered",
        tiers_mode="volume",
        tiers=[{"up_to": "inf", "unit_amount": 1}],
    ).id}],
    proration_behavior="always_invoice",
)
invoice = stripe.Invoice.retrieve(changed.latest_invoice)
assert (invoice.status, invoice.amount_due, invoice.lines.data[0].quantity) == ("open", 306, 12)
ended = stripe.Subscription.cancel(subscription.id, invoice_now=True, prorate=True)
assert ended.status == "canceled"
assert len(stripe.Invoice.list(subscription=subscription.id).data) == 3
kinds = [one.type for one in stripe.Event.list(types=["invoice.finalized", "customer.subscription.deleted"]).data]
assert kinds[0] == "customer.subscription.deleted" and kinds.count("invoice.finalized") == 3, kinds
assert not stripe.Balance.retrieve().livemode
receiver.shutdown()
