//! To all workers, in order. timely's own broadcast is made of operators that sort what they get by time, and not stably:
//! of two things that a worker says in one epoch the later one may come first.

use timely::ExchangeData;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::Operator;

/// What one worker gives comes to every worker, itself too, in the order in which it was given.
pub fn broadcast<'scope, D: ExchangeData + Clone>(stream: StreamVec<'scope, u64, D>) -> StreamVec<'scope, u64, D> {
    let workers = stream.scope().peers() as u64;
    let addressed = stream.unary(Pipeline, "Address", move |_, _| {
        move |input, output| {
            input.for_each(|time, data| {
                let mut session = output.session(&time);
                for item in data.drain(..) {
                    (0..workers).for_each(|worker| session.give((worker, item.clone())));
                }
            });
        }
    });
    addressed.unary(Exchange::new(|item: &(u64, D)| item.0), "Deliver", |_, _| {
        |input, output| {
            input.for_each(|time, data| output.session(&time).give_iterator(data.drain(..).map(|(_, item)| item)));
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use timely::dataflow::operators::{Input, Probe};

    use super::*;

    #[test]
    fn each_worker_is_heard_in_order() {
        let heard: Arc<Mutex<Vec<(usize, usize, u64)>>> = Arc::default();
        let into = heard.clone();
        timely::execute(timely::Config::process(2), move |worker| {
            let (me, into) = (worker.index(), into.clone());
            let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
                let (input, stream) = scope.new_input::<Vec<(usize, u64)>>();
                let all = broadcast(stream).unary::<timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _>(
                    Pipeline,
                    "Hear",
                    |_, _| {
                        move |input, _| {
                            input.for_each(|_, data| {
                                let mut into = into.lock().unwrap();
                                into.extend(data.drain(..).map(|(from, n)| (me, from, n)));
                            });
                        }
                    },
                );
                (input, all.probe().0)
            });
            for n in 0..2_000 {
                input.send((me, n));
                input.flush();
                if n % 100 == 0 {
                    input.advance_to(n / 100 + 1);
                }
                // One worker is slow to look: much waits for it, from both and of several epochs.
                if me == 0 || n % 500 == 0 {
                    worker.step();
                }
            }
            drop(input);
            while !probe.done() {
                worker.step();
            }
        })
        .unwrap();
        let mut last: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), 2 * 2 * 2_000);
        for &(at, from, n) in heard.iter() {
            let before = last.insert((at, from), n);
            assert!(before < Some(n), "{at} heard {n} from {from} after {before:?}");
        }
    }
}
