//! Which events and spans a layer takes.

use tracing::{Metadata, Subscriber, subscriber::Interest};
use tracing_subscriber::layer::{Context, Filter};

/// Takes what the function says, asked each time.
///
/// A filter of tracing-subscriber that is asked once for each place in the code is not asked again there. But its answers to a mere question whether
/// something is enabled stay behind in the thread, and hold for the next event or span from such a place: it is lost. sqlx asks so of each
/// statement, through the bridge from the crate `log`. Where the answer is no for ever nobody has to be asked again.
pub(super) struct Each<F>(pub(super) F);

impl<S, F> Filter<S> for Each<F>
where
    S: Subscriber,
    F: Fn(&Metadata<'_>) -> bool,
{
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        (self.0)(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if (self.0)(metadata) {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{Event, Level, Subscriber, span};
    use tracing_subscriber::{
        Layer,
        layer::{Context, SubscriberExt},
        registry::LookupSpan,
    };

    use super::Each;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<&'static str>>>);

    impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Seen {
        fn on_new_span(&self, span: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
            self.0.lock().unwrap().push(span.metadata().name());
        }

        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(event.metadata().target());
        }
    }

    #[test]
    fn nothing_is_lost_after_a_question_whether_something_is_enabled() {
        // What asks without a place in the code, as the bridge does.
        let all = tracing_subscriber::registry();
        let statement =
            tracing::subscriber::with_default(all, || tracing::debug_span!("statement").metadata());
        let statement = statement.expect("it is enabled there");
        let (one, two) = (Seen::default(), Seen::default());
        let info = |metadata: &tracing::Metadata<'_>| *metadata.level() <= Level::INFO;
        let subscriber = tracing_subscriber::registry()
            .with(one.clone().with_filter(Each(info)))
            .with(two.clone().with_filter(Each(info)));
        tracing::subscriber::with_default(subscriber, || {
            // Whatever it answers.
            let ask = || tracing::dispatcher::get_default(|dispatch| dispatch.enabled(statement));
            for _ in 0..3 {
                let _ = ask();
                tracing::info!(target: "answered", "answered");
                let _ = ask();
                drop(tracing::info_span!("call"));
                tracing::debug!(target: "detail", "a detail");
            }
        });
        for seen in [one, two] {
            assert_eq!(*seen.0.lock().unwrap(), ["answered", "call"].repeat(3));
        }
    }
}
