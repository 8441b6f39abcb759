//! Clients: each asks one thing at a time and may never learn what became of it; watchers follow a
//! range over as many streams as it takes.

use cairn_checkers::history::NEVER;
use cairn_checkers::watch::{Verdict, Watcher as WatchState};
use cairn_checkers::{Operation, Outcome};
use cairn_core::api::{RangeRequest, Request, ResponseBody, WatchCreateRequest, WatchResponse};
use cairn_core::node::Input;
use cairn_core::rng::Rng;
use cairn_core::types::{KeyRange, MemberId};

use crate::checker::lease;
use crate::cluster::Cluster;
use crate::coverage::{Doing, Point};
use crate::history::{Answer, Op};
use crate::options::{MS, SECOND};
use crate::queue::Event;
use crate::record;
use crate::workload::script::{self, Script, Told};
use crate::workload::{Draw, watch};

/// Who asks what no client asked.
const OPERATOR: u64 = 1000;

/// A client.
#[derive(Debug)]
pub struct Client {
    /// Operations so far: what one draws comes from its number.
    asked: u64,
    /// The operation that it waits for, and when it asked.
    waiting: Option<(u64, u64)>,
    script: Option<Box<dyn Script>>,
    /// It speaks to one member only, by position.
    home: Option<usize>,
}

/// A watcher's client.
#[derive(Debug)]
pub struct Watcher {
    rng: Rng,
    state: Option<WatchState>,
    request: WatchCreateRequest,
    stream: u64,
    /// It reads slowly.
    slow: bool,
}

impl Cluster {
    pub(crate) fn start_clients(&mut self) {
        let seed = self.options.seed;
        for client in 0..self.options.clients {
            let mut rng = Rng::derive(seed, &[10, client as u64]);
            let home = rng.chance(1, 2).then(|| rng.below(5) as usize);
            let script = Some(script::draw(&mut rng, client as u64, &self.options));
            self.clients.push(Client { asked: 0, waiting: None, script, home });
            self.schedule(100 * MS, Event::ClientNext { client });
        }
        for watcher in 0..self.options.watchers {
            let mut rng = Rng::derive(seed, &[11, watcher as u64]);
            let slow = rng.chance(1, 4);
            self.watchers.push(Watcher {
                rng,
                state: None,
                request: WatchCreateRequest::default(),
                stream: 0,
                slow,
            });
            self.schedule(SECOND, Event::WatchOpen { watcher });
            self.schedule(2 * SECOND, Event::WatchAsk { watcher });
        }
    }

    pub(crate) fn running(&self) -> Vec<MemberId> {
        self.members.values().filter(|member| member.process.is_some()).map(|member| member.id).collect()
    }

    fn draw<'a>(&'a self, rng: &'a mut Rng, number: u64) -> Draw<'a> {
        let members: Vec<MemberId> = self.members.keys().copied().collect();
        let member = members[rng.below(members.len() as u64) as usize];
        Draw {
            options: &self.options,
            rng,
            number,
            revision: self.linearizability.floor.max(1),
            compact: self.linearizability.compact_floor,
            leases: &self.granted,
            member,
        }
    }

    pub(crate) fn client_next(&mut self, client: usize) {
        if !self.chaotic {
            return;
        }
        let running = self.running();
        if running.is_empty() {
            self.schedule(100 * MS, Event::ClientNext { client });
            return;
        }
        let name = (client, self.clients[client].asked);
        self.clients[client].asked += 1;
        let mut rng = Rng::derive(self.options.seed, &[12, name.0 as u64, name.1]);
        if !self.options.kept.op(name) {
            let delay = self.options.think.draw(&mut rng);
            return self.schedule(delay, Event::ClientNext { client });
        }
        self.trace.record(|recorded| recorded.asked.push(name));
        let at = match self.clients[client].home {
            Some(home) => home % running.len(),
            None => rng.below(running.len() as u64) as usize,
        };
        let Some(mut script) = self.clients[client].script.take() else { return };
        let request = script.next(&mut self.draw(&mut rng, self.next_number));
        self.clients[client].script = Some(script);
        let patience = if rng.chance(1, 4) { 200 * MS + rng.below(3 * SECOND) } else { 15 * SECOND };
        let number = self.ask(running[at], request, Some(client));
        self.clients[client].waiting = Some((number, self.now));
        self.schedule(patience, Event::ClientTimeout { client, number });
    }

    /// Sends a request to a member.
    pub(crate) fn ask(&mut self, id: MemberId, request: Request, client: Option<usize>) -> u64 {
        self.next_number += 1;
        let number = self.next_number;
        let mut operation = Operation {
            number,
            client: client.map_or(OPERATOR, |client| client as u64),
            member: id,
            boot: 0,
            call: self.now,
            ret: NEVER,
            action: record::action(&request),
            outcome: Outcome::Unknown { why: "no answer".to_owned() },
        };
        let (floor, compact_floor) = (self.linearizability.floor, self.linearizability.compact_floor);
        let now = self.now;
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            self.trace.record(|recorded| recorded.operations.push(operation.clone()));
            self.history.push(operation);
            return number;
        };
        process.next_request += 1;
        let (boot, request_id) = (process.boot, process.next_request);
        operation.boot = boot;
        self.trace.record(|recorded| recorded.operations.push(operation.clone()));
        self.history.push(operation);
        self.stats.operations += 1;
        self.trace.line(now, || format!("{id:16x} #{number} asked {request_id}: {request:?}"));
        let op = Op {
            client,
            number,
            member: id,
            boot,
            id: request_id,
            request: request.clone(),
            invoked: now,
            floor,
            compact_floor,
        };
        process.outstanding.insert(request_id, op);
        self.feed(id, boot, Input::Request { id: request_id, request, timeout: None });
        number
    }

    /// A member answered.
    pub(crate) fn answer(&mut self, id: MemberId, request: u64, answer: Answer) {
        let now = self.now;
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return;
        };
        let Some(op) = process.outstanding.remove(&request) else {
            return self.fail(format!("{id:x} answered request {request} twice or unasked: {answer:?}"));
        };
        self.stats.answered += 1;
        self.trace.note(&[5, op.number, u64::from(answer.is_ok())]);
        self.trace.line(now, || format!("{id:16x} #{} answered {answer:?}", op.number));
        let told = &mut self.history[op.number as usize - 1];
        (told.ret, told.outcome) = (now, record::outcome(&answer));
        self.trace.record(|recorded| recorded.told(op.number, now, record::outcome(&answer)));
        let checked = self.linearizability.answered(&op, &answer, &self.model).and_then(|()| {
            lease::answered(&mut self.leases, now, &op, &answer)
                .map_err(|violation| format!("{violation}\n  asked: {op:?}\n  answered: {answer:?}"))
        });
        if let Err(what) = checked {
            self.trace.record(|recorded| {
                recorded.blamed = vec![op.number];
                // For a stale answer, the one that shows it.
                let newer =
                    |other: &&Operation| other.ret <= op.invoked && other.revision() == Some(op.floor);
                recorded.blamed.extend(self.history.iter().find(newer).map(|other| other.number));
            });
            return self.fail(what);
        }
        if let Ok(response) = &answer
            && let ResponseBody::LeaseGrant { id, .. } = response.body
        {
            self.granted.push(id);
            if self.granted.len() > 6 {
                self.granted.remove(0);
            }
        }
        match op.client {
            Some(client) => self.client_done(client, op.number, Some(&answer)),
            None => {
                self.answers.insert(op.number, answer);
            }
        }
    }

    /// A client knows its answer, or that there will be none.
    pub(crate) fn client_done(&mut self, client: usize, number: u64, answer: Option<&Answer>) {
        let at = self.now;
        let Some(asking) = self.clients.get_mut(client) else { return };
        let Some((_, call)) = asking.waiting.take_if(|(waiting, _)| *waiting == number) else { return };
        if let Some(script) = &mut asking.script {
            script.told(Told { client: client as u64, number, call, at, answer }, &mut self.scripts);
        }
        if answer.is_none() {
            self.coverage.hit(Point::OutcomeUnknown);
        }
        let think = self.options.think;
        let name = [13, client as u64, self.clients[client].asked];
        let delay = think.draw(&mut Rng::derive(self.options.seed, &name));
        self.schedule(delay, Event::ClientNext { client });
    }

    pub(crate) fn watch_open(&mut self, watcher: usize) {
        let running = self.running();
        if running.is_empty() {
            self.schedule(200 * MS, Event::WatchOpen { watcher });
            return;
        }
        let mut rng = self.watchers[watcher].rng.clone();
        let id = running[rng.below(running.len() as u64) as usize];
        // Now and then the client begins anew, somewhere else.
        let fresh = self.watchers[watcher].state.is_none() || (self.chaotic && rng.chance(1, 4));
        let request = if fresh {
            let request = watch::create(&mut self.draw(&mut rng, self.next_number));
            self.watchers[watcher].state = Some(WatchState::new(record::watch_request(&request)));
            self.watchers[watcher].request = request.clone();
            request
        } else {
            let watcher = &mut self.watchers[watcher];
            let state = watcher.state.as_mut().expect("it was just looked at");
            watcher.request.start_revision = state.resume();
            watcher.request.clone()
        };
        self.watchers[watcher].rng = rng;
        self.next_stream += 1;
        let stream = self.next_stream;
        self.watchers[watcher].stream = stream;
        let now = self.now;
        self.trace.line(now, || format!("{id:16x} stream {stream} opens: {request:?}"));
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return;
        };
        process.streams.insert(stream, watcher);
        let boot = process.boot;
        if (1..self.model.revision).contains(&request.start_revision) {
            self.note_doing(id, Doing::CatchingUpWatcher);
        }
        self.feed(id, boot, Input::WatchOpen { stream });
        self.feed(id, boot, Input::WatchCreate { stream, request });
    }

    /// A client asks for progress, or leaves its stream.
    pub(crate) fn watch_ask(&mut self, watcher: usize) {
        let delay = 300 * MS + self.watchers[watcher].rng.below(3 * SECOND);
        self.schedule(delay, Event::WatchAsk { watcher });
        let stream = self.watchers[watcher].stream;
        let leave = self.chaotic && self.watchers[watcher].rng.chance(1, 8);
        let holder = self.members.values_mut().find_map(|member| {
            let id = member.id;
            member.process.as_mut().filter(|process| process.streams.contains_key(&stream)).map(|p| (id, p))
        });
        let Some((id, process)) = holder else { return };
        let boot = process.boot;
        if leave {
            process.streams.remove(&stream);
            self.feed(id, boot, Input::WatchClose { stream });
            self.schedule(100 * MS, Event::WatchOpen { watcher });
        } else {
            self.feed(id, boot, Input::WatchProgress { stream });
        }
    }

    pub(crate) fn watch_response(&mut self, id: MemberId, boot: u64, stream: u64, response: &WatchResponse) {
        let now = self.now;
        self.trace.note(&[6, stream, response.revision as u64, response.events.len() as u64]);
        self.trace.line(now, || format!("{id:16x} stream {stream} {response:?}"));
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return;
        };
        let Some(watcher) = process.streams.get(&stream).copied() else { return };
        let Some(state) = self.watchers[watcher].state.as_mut() else { return };
        match state.received(
            &record::sent(response),
            &self.model.replay,
            self.model.revision,
            self.model.compact,
        ) {
            Ok(Verdict::Fine) => {
                let slow = if self.watchers[watcher].slow && self.chaotic { SECOND } else { MS };
                let delay = self.watchers[watcher].rng.below(slow);
                self.schedule(
                    delay,
                    Event::Feed { member: id, boot, input: Input::WatchCredit { stream, responses: 1 } },
                );
            }
            Ok(Verdict::Canceled) => {
                process.streams.remove(&stream);
                self.feed(id, boot, Input::WatchClose { stream });
                self.schedule(100 * MS, Event::WatchOpen { watcher });
            }
            Err(what) => {
                let state = self.watchers[watcher].state.clone();
                self.fail(format!("{what}\n  stream {stream} of {id:x}: {response:?}\n  {state:?}"));
            }
        }
    }

    pub(crate) fn watch_closed(&mut self, id: MemberId, stream: u64) {
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return;
        };
        if let Some(watcher) = process.streams.remove(&stream) {
            self.schedule(100 * MS, Event::WatchOpen { watcher });
        }
    }

    /// After the end: everything that was acknowledged is on every member, and nobody waits.
    pub(crate) fn final_checks(&mut self) -> Result<(), String> {
        for member in self.members.values() {
            let Some(process) = &member.process else { continue };
            if let Some(op) = process.outstanding.values().next() {
                return Err(format!("liveness: {:x} never answered {op:?}", member.id));
            }
        }
        if !self.model.leases.is_empty() {
            return Err(format!("liveness: leases that nobody renews remain: {:?}", self.model.leases));
        }
        for watcher in &self.watchers {
            let missing = watcher.state.as_ref().map_or(0, |state| state.missing(&self.model.replay));
            if missing > 0 {
                return Err(format!("watch reliable: {missing} events were never sent: {:?}", watcher.state));
            }
        }
        let ids: Vec<MemberId> = self.statuses().into_keys().collect();
        let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
        let mut asked = Vec::new();
        for id in ids {
            let hash = self.ask(id, Request::HashKv { revision: 0 }, None);
            let rows = self.ask(id, Request::Range(all.clone()), None);
            asked.push((id, hash, rows));
        }
        let end = self.now + 10 * SECOND;
        self.run_to(end);
        let mut hashes = std::collections::BTreeSet::new();
        for (id, hash, rows) in asked {
            let (Some(hash), Some(rows)) = (self.answers.remove(&hash), self.answers.remove(&rows)) else {
                return Err(format!("liveness: {id:x} does not answer at the end"));
            };
            match hash.map(|response| response.body) {
                Ok(ResponseBody::HashKv { hash, compact_revision, hash_revision }) => {
                    hashes.insert((hash, compact_revision, hash_revision));
                }
                other => return Err(format!("liveness: {id:x} does not hash: {other:?}")),
            }
            let expected = self.model.live(&KeyRange::From("\0".into()), self.model.revision);
            match rows.map(|response| response.body) {
                Ok(ResponseBody::Range(range)) if range.kvs == expected => {}
                other => return Err(format!("durability: {id:x} has {other:?}, expected {expected:?}")),
            }
        }
        if hashes.len() != 1 {
            return Err(format!("convergence: hashes differ: {hashes:?}"));
        }
        Ok(())
    }
}
