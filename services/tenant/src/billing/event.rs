//! What is taken from an event: its id, and of which subscription it tells.

use serde::Deserialize;

/// Ids of Stripe are shorter.
const LONGEST_ID: usize = 255;

/// An event, whatever it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// `evt_…`
    pub(crate) id: String,
    /// For example `customer.subscription.updated`.
    pub(crate) kind: String,
    /// When it happened: seconds since 1970.
    pub(crate) created: i64,
    /// `sub_…`, where it is about one.
    pub(crate) subscription: Option<String>,
}

#[derive(Deserialize)]
struct Body {
    id: String,
    object: String,
    #[serde(rename = "type")]
    kind: String,
    created: i64,
    livemode: bool,
    account: Option<String>,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    object: Object,
}

/// A subscription, an invoice, a checkout session, or anything else.
#[derive(Deserialize)]
struct Object {
    id: Option<String>,
    object: Option<String>,
    subscription: Option<Reference>,
    parent: Option<Parent>,
}

#[derive(Deserialize)]
struct Parent {
    subscription_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    subscription: Option<Reference>,
}

/// Another object: by its id, or written out.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Reference {
    Id(String),
    Object { id: String },
}

impl Reference {
    pub(super) fn id(self) -> String {
        match self {
            Self::Id(id) | Self::Object { id } => id,
        }
    }
}

impl Event {
    /// Reads an event whose signature holds. None is what no event of ours is: of another account, or of the other one of live and test.
    pub(crate) fn read(body: &[u8], live: bool) -> Option<Self> {
        let body: Body = serde_json::from_slice(body).ok()?;
        let ours = body.object == "event" && body.livemode == live && body.account.is_none();
        if !ours || !is_id(&body.id, "evt_") || body.kind.len() > LONGEST_ID {
            return None;
        }
        let object = body.data.object;
        let subscription = if object.object.as_deref() == Some("subscription") {
            object.id
        } else {
            let parent = object.parent.and_then(|parent| parent.subscription_details);
            let of_invoice = parent.and_then(|details| details.subscription);
            object.subscription.or(of_invoice).map(Reference::id)
        };
        Some(Self {
            id: body.id,
            kind: body.kind,
            created: body.created,
            subscription: subscription.filter(|id| is_id(id, "sub_")),
        })
    }
}

/// Whether it is an id of this kind: safe in a path, too.
pub(crate) fn is_id(text: &str, prefix: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let rest = text.strip_prefix(prefix);
    text.len() <= LONGEST_ID && rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(word))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Event, is_id};

    fn event(object: &Value) -> Value {
        json!({
            "id": "evt_1", "object": "event", "api_version": "2025-03-31.basil", "created": 1_780_000_000,
            "type": "some.thing", "livemode": false, "pending_webhooks": 1,
            "request": {"id": null, "idempotency_key": null}, "data": {"object": object}
        })
    }

    fn read(event: &Value) -> Option<Event> {
        Event::read(event.to_string().as_bytes(), false)
    }

    #[test]
    fn an_event_tells_of_which_subscription_it_is() {
        for (object, expected) in [
            (json!({"id": "sub_1", "object": "subscription"}), Some("sub_1")),
            (
                json!({"id": "in_1", "object": "invoice", "subscription": "sub_1"}),
                Some("sub_1"),
            ),
            (
                json!({"id": "in_1", "object": "invoice", "subscription": {"id": "sub_1"}}),
                Some("sub_1"),
            ),
            (
                json!({"id": "in_1", "object": "invoice",
                       "parent": {"type": "subscription_details", "subscription_details": {"subscription": "sub_1"}}}),
                Some("sub_1"),
            ),
            (
                json!({"id": "in_1", "object": "invoice", "subscription": null, "parent": null}),
                None,
            ),
            (
                json!({"id": "cs_1", "object": "checkout.session", "mode": "subscription", "subscription": "sub_1"}),
                Some("sub_1"),
            ),
            (json!({"id": "cus_1", "object": "customer"}), None),
            (
                json!({"id": "sub_1/../../v1/charges", "object": "subscription"}),
                None,
            ),
            (json!({"id": "ba_1", "object": "balance"}), None),
        ] {
            let read = read(&event(&object)).unwrap();
            assert_eq!(read.subscription.as_deref(), expected, "{object}");
            assert_eq!((read.id.as_str(), read.created), ("evt_1", 1_780_000_000));
        }
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        let mine = json!({"id": "sub_1", "object": "subscription"});
        let with = |name: &str, value: Value| {
            let mut event = event(&mine);
            event[name] = value;
            event
        };
        assert!(read(&with("livemode", json!(false))).is_some());
        for wrong in [
            with("livemode", json!(true)),
            with("livemode", json!("false")),
            with("account", json!("acct_1")),
            with("object", json!("v2.core.event")),
            with("id", json!("evt_")),
            with("id", json!("evt_1'; --")),
            with("created", json!("now")),
            with("data", json!({})),
            json!([]),
        ] {
            assert_eq!(read(&wrong), None, "{wrong}");
        }
        assert!(Event::read(b"", false).is_none() && Event::read(b"\xff", false).is_none());
        // A name that stands twice.
        let twice = event(&mine).to_string().replacen('{', r#"{"id":"evt_2","#, 1);
        assert!(Event::read(twice.as_bytes(), false).is_none());
        assert!(Event::read(with("livemode", json!(true)).to_string().as_bytes(), true).is_some());
    }

    #[test]
    fn ids_are_of_letters_and_digits() {
        assert!(is_id("sub_1MowQVLkdIwHu7ixeRlqHVzs", "sub_"));
        for wrong in [
            "sub_",
            "cus_1",
            "sub_a/b",
            "sub_a%2f",
            "sub_a b",
            "sub_ä",
            &format!("sub_{}", "a".repeat(252)),
        ] {
            assert!(!is_id(wrong, "sub_"), "{wrong}");
        }
    }
}
