//! A queue of Cloudflare from which tasks are pulled.
//!
//! It has no order and no partitions: any number of processes pull, and each gets what no other one has. A
//! lease cannot be lengthened, so it is longer than a transaction may take. The queue counts how often it
//! hands out a message, and gives it up after the retries that its settings allow. So what was pulled
//! stays in hand while the target does not answer: nothing is given back, and nothing more is pulled.

use std::collections::{BTreeMap, VecDeque};
use std::future::ready;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};

use super::claim::{Claim, Claims, Outside};
use super::letter::letter;
use super::message::{Message, Pulled, Settled};
use super::options::QueueOptions;
use crate::model::{Feed, RandomId};
use crate::sink::SinkError;
use crate::sink::cloudflare::{Client, Failure};
use crate::sink::queue::{Presence, Queue, QueueSource, Taken};

/// Messages that are pulled at once.
const BATCH: usize = 100;
/// The bytes of an answer with as many messages: 128 KB each, and twice that as JSON.
const MOST_ANSWER: usize = 32 << 20;
/// How long no other consumer gets what was pulled. A transaction has 45 s.
const VISIBILITY: Duration = Duration::from_secs(300);
/// How long the queue is left alone while it is empty.
const IDLE: Duration = Duration::from_millis(900);
/// How many records are asked for at once. Each has a deadline of 20 s, so the hundred of a pull take less
/// time than its lease.
const CLAIMS: usize = 8;
/// What is refused, and has no queue for dead letters, comes again after so many seconds.
const REFUSED_DELAY: u64 = 60;
/// The deadline of an ack. A step of a consumer applies within 45 s and acks within these ten: 55 s. After
/// 60 s the supervisor takes the consumer for stuck. A step that pulls (30 s), asks for records (20 s, and
/// ten for what becomes of their messages) or sets a task aside (30 s and ten) applies nothing.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);
/// How long what is given back may take.
const RELEASE_DEADLINE: Duration = Duration::from_secs(2);

/// A queue that several processes consume.
pub struct CloudflareQueue {
    options: QueueOptions,
    outside: Outside,
    /// Retries of a record that its host does not give, before its task is a dead letter.
    retries: u32,
}

impl CloudflareQueue {
    pub fn new(options: QueueOptions, outside: Outside, retries: u32) -> Self {
        Self {
            options,
            outside,
            retries,
        }
    }
}

impl Queue for CloudflareQueue {
    fn parts(&self) -> u32 {
        1
    }

    fn part(&self, _number: u32) -> Box<dyn QueueSource> {
        let client = |url| Client::new(url, self.options.access.clone());
        Box::new(Puller {
            pull: client(self.options.pull.clone()).with_most_answer(MOST_ANSWER),
            settle: client(self.options.settle.clone()).with_deadline(SETTLE_DEADLINE),
            letters: self.options.letters.clone().map(client),
            outside: self.outside.clone(),
            claims: None,
            retries: self.retries,
            without_record: VecDeque::new(),
            in_hand: BTreeMap::new(),
            next: 0,
        })
    }

    fn presence(&self) -> Box<dyn Presence> {
        Box::new(Uncounted)
    }
}

/// The queue does not tell how many pull from it.
struct Uncounted;

impl Presence for Uncounted {
    fn beat(&mut self) -> BoxFuture<'_, Result<Option<u32>, SinkError>> {
        Box::pin(ready(Ok(None)))
    }

    fn leave(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }
}

/// What is pulled, and what becomes of it.
struct Puller {
    pull: Client,
    settle: Client,
    letters: Option<Client>,
    outside: Outside,
    claims: Option<Claims>,
    retries: u32,
    /// Tasks whose records are asked for next.
    without_record: VecDeque<(Message, Claim)>,
    /// What was handed out and is not settled, with its message as the queue has it.
    in_hand: BTreeMap<u64, (Message, Taken)>,
    next: u64,
}

#[derive(Serialize)]
struct Pull {
    batch_size: usize,
    visibility_timeout_ms: u64,
}

#[derive(Serialize)]
struct Push {
    body: String,
    content_type: &'static str,
}

/// What a host says of the record of a task.
enum Claimed {
    Whole(Bytes),
    /// The account has proven a later commit with another record, or none.
    Changed,
    /// The host does not answer, lags, or proves nothing.
    Unknown(String),
}

impl Puller {
    /// Hands out what is in hand, or makes one request. What a request has brought is handed out by the next
    /// call, so that no step of a consumer waits for both the request and its transaction.
    async fn take(&mut self) -> Result<Vec<Taken>, SinkError> {
        if !self.in_hand.is_empty() {
            let taken = self.in_hand.values().map(|(_, taken)| taken.clone());
            return Ok(taken.collect());
        }
        match self.without_record.is_empty() {
            true => self.pull_some().await?,
            false => self.redeem_some().await?,
        }
        if self.in_hand.is_empty() && self.without_record.is_empty() {
            sleep(IDLE).await;
        }
        Ok(Vec::new())
    }

    async fn pull_some(&mut self) -> Result<(), SinkError> {
        let pull = Pull {
            batch_size: BATCH,
            visibility_timeout_ms: VISIBILITY.as_millis() as u64,
        };
        let pulled: Option<Pulled> = ask(&mut self.pull, &pull).await?;
        let messages = pulled.into_iter().flat_map(Pulled::messages);
        let mut messages: Vec<Message> = messages.collect();
        // What was handed out before may have ended its consumer: the others come first.
        messages.sort_by_key(|message| message.attempts);
        for message in messages {
            match Claim::of(&message.body) {
                Some(claim) => self.without_record.push_back((message, claim)),
                None => self.hand_out(message.clone(), message.body, None),
            }
        }
        Ok(())
    }

    fn hand_out(&mut self, message: Message, body: Bytes, verdict: Option<String>) {
        self.next += 1;
        let taken = Taken {
            number: self.next,
            body,
            most: together(message.attempts),
            verdict,
        };
        self.in_hand.insert(self.next, (message, taken));
    }

    /// Asks for the records of some tasks, and hands these out.
    async fn redeem_some(&mut self) -> Result<(), SinkError> {
        let count = self.without_record.len().min(CLAIMS);
        if count == 0 {
            return Ok(());
        }
        let claims = match self.claims.take() {
            Some(claims) => claims,
            None => Claims::new(&self.outside)?,
        };
        let claims: &Claims = self.claims.insert(claims);
        let first = self.without_record.iter().take(count);
        let asked = first.map(|(message, claim)| claimed(claims, message, claim));
        let answers = join_all(asked).await;
        let mut settled = Settled::default();
        for ((message, _), answer) in self.without_record.iter().zip(&answers) {
            match answer {
                // A newer task follows.
                Claimed::Changed => settled.ack(message),
                Claimed::Unknown(_) if message.attempts <= self.retries => {
                    settled.retry(message, claim_delay(message.attempts));
                }
                Claimed::Whole(_) | Claimed::Unknown(_) => {}
            }
        }
        self.settle(&settled).await?;
        for answer in answers {
            let Some((message, _)) = self.without_record.pop_front() else {
                break;
            };
            match answer {
                Claimed::Whole(body) => self.hand_out(message, body, None),
                Claimed::Unknown(reason) if message.attempts > self.retries => {
                    self.hand_out(message.clone(), message.body, Some(reason));
                }
                Claimed::Changed | Claimed::Unknown(_) => {}
            }
        }
        Ok(())
    }

    /// A lease that has ended is settled all the same, unless the message was handed out again. Then it is
    /// the other consumer's, and the answer says so; there is nothing to do.
    async fn settle(&mut self, settled: &Settled) -> Result<(), SinkError> {
        if settled.is_empty() {
            return Ok(());
        }
        let _answer: Option<Box<RawValue>> = ask(&mut self.settle, settled).await?;
        Ok(())
    }

    async fn ack_some(&mut self, numbers: &[u64]) -> Result<(), SinkError> {
        let mut settled = Settled::default();
        let messages = numbers.iter().filter_map(|number| self.in_hand.get(number));
        messages.for_each(|(message, _)| settled.ack(message));
        self.settle(&settled).await?;
        for number in numbers {
            self.in_hand.remove(number);
        }
        Ok(())
    }

    async fn bury(&mut self, number: u64, reason: &str, attempts: u32) -> Result<(), SinkError> {
        let Some((message, _)) = self.in_hand.get(&number) else {
            return Ok(());
        };
        let mut settled = Settled::default();
        match &mut self.letters {
            Some(letters) => {
                let attempts = attempts.max(message.attempts);
                let body = letter(&message.body, reason, attempts);
                let push = Push {
                    body: body.map_err(SinkError::unavailable)?,
                    content_type: "text",
                };
                let _answer: Option<Box<RawValue>> = ask(letters, &push).await?;
                settled.ack(message);
            }
            // The queue's own settings say where it goes in the end.
            None => settled.retry(message, REFUSED_DELAY),
        }
        self.settle(&settled).await?;
        self.in_hand.remove(&number);
        Ok(())
    }

    /// Gives everything back at once. What cannot be given back comes again when its lease ends.
    async fn give_back(&mut self) {
        let mut settled = Settled::default();
        for (message, _) in self.in_hand.values() {
            settled.retry(message, 0);
        }
        for (message, _) in &self.without_record {
            settled.retry(message, 0);
        }
        self.in_hand.clear();
        self.without_record.clear();
        let _ends_by_itself = timeout(RELEASE_DEADLINE, self.settle(&settled)).await;
    }
}

async fn claimed(claims: &Claims, message: &Message, claim: &Claim) -> Claimed {
    match claims.redeem(claim, &message.body).await {
        Ok(Some(body)) => Claimed::Whole(body),
        Ok(None) => Claimed::Changed,
        Err(reason) => Claimed::Unknown(reason),
    }
}

/// Whatever the queue answers, what was pulled waits.
async fn ask<T: DeserializeOwned>(
    client: &mut Client,
    request: &impl Serialize,
) -> Result<Option<T>, SinkError> {
    let body = serde_json::to_vec(request).map_err(SinkError::unavailable)?;
    let answer = client.post(body.into()).await;
    answer.map_err(Failure::unavailable)
}

/// With how many others a message is applied: fewer each time that it was handed out in vain.
fn together(attempts: u32) -> usize {
    match attempts {
        0 | 1 => BATCH,
        2 => BATCH / 4,
        3 => BATCH / 16,
        _ => 1,
    }
}

/// After how many seconds a host is asked again.
fn claim_delay(attempts: u32) -> u64 {
    match attempts {
        0 | 1 => 60,
        2 => 300,
        _ => 1800,
    }
}

impl QueueSource for Puller {
    fn fetch(&mut self) -> BoxFuture<'_, Result<Vec<Taken>, SinkError>> {
        Box::pin(self.take())
    }

    fn begin<'a>(&'a mut self, _numbers: &'a [u64]) -> BoxFuture<'a, Result<(), SinkError>> {
        // The queue has counted the attempt.
        Box::pin(ready(Ok(())))
    }

    fn extend(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        // A lease cannot be lengthened, and is longer than a transaction.
        Box::pin(ready(Ok(())))
    }

    fn ack<'a>(&'a mut self, numbers: &'a [u64]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.ack_some(numbers))
    }

    fn set_aside<'a>(
        &'a mut self,
        number: u64,
        reason: &'a str,
        attempts: u32,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.bury(number, reason, attempts))
    }

    fn release(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.give_back())
    }

    fn pause(&mut self) -> BoxFuture<'_, ()> {
        // To give it back would count as an attempt.
        Box::pin(ready(()))
    }

    fn has_part(&self) -> bool {
        true
    }

    fn feed<'a>(&'a mut self, _id: &'a RandomId) -> BoxFuture<'a, Result<Option<Feed>, SinkError>> {
        Box::pin(ready(Ok(None)))
    }
}
