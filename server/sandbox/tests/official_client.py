"""Uses Stripe's own Python library against the sandbox: official_client.py BASE_URL SECRET_KEY."""

import sys
import time

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

stripe.api_key = "sk_test_wrong"
try:
    stripe.Customer.list()
except stripe.AuthenticationError as error:
    assert error.http_status == 401
else:
    raise AssertionError("a wrong key was let in")

assert stripe.Customer.delete(customer.id, api_key=sys.argv[2]).deleted
