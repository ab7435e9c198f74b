"""_schema.py - the client's half of PROTOCOL.md as data: number (or -), name, form, fields as NAME:TYPE[=DEFAULT].

[T] is a list, {T} a map from text, ?T stays absent unless given. The order of the fields is theirs on the wire: new ones go to the end.
A test holds this against PROTOCOL.md and against the golden bytes.
"""

SCHEMA = """\
- Model array name:str version:str runtime:str metadata:str owner:str blob:bin32 bytes:u64 budget_mib:i64 pushed_ms:i64
    promoted:bool promoted_ms:i64
- Device map uuid:str name:str kind:u8 index:u16 total_mib:i64 driver_mib:i64 used_mib:i64 used_by_us_mib:i64 temperature_c:i16=-1
    utilization_pct:i16=-1 healthy:bool=true
1 ClientHello map name:str version:str protocol:u8=1 near:bool
2 ClientWelcome map broker_version:str term:u64 protocol:u8 role:str name:str frame_bytes_max:u64 inline_bytes_max:u64
    blob_chunk_bytes:u64 beat_ms:u32 space:str near:str
5 Beat map sent_us:u64
6 BeatReply map sent_us:u64 term:u64
7 Goodbye map reason:str
8 Failure map code:str what:str next:str
10 Submit array items:[SubmitItem]
- SubmitItem array id:bin16 digest:bin16 kind:str job_class:u8 priority:u8=5 payload_bytes:u32 watch:bool=true model:str
    budget_min_mib:i64 budget_max_mib:i64 devices:u16=1 on_preempt:u8 exclusive:bool where:[str] not_before_ms:i64 deadline_ms:i64
    timeout_us:i64 retries:u32 unique:str after:[bin16] blobs:[bin32] label:str strict:bool durability:u8
11 Submitted array items:[SubmittedItem]
- SubmittedItem array id:bin16 ok:bool existing:bool code:str what:str next:str durability:u8
12 Watch map jobs:[bin16]
13 Watched map unknown:[bin16]
14 Notify array items:[NotifyItem]
- NotifyItem array id:bin16 state:u8 attempt:u32 payload_bytes:u32 submitted_ms:i64 started_ms:i64 ended_ms:i64 worker:str
    device:str model_version:str code:str what:str blobs:[bin32]
15 Fetched map jobs:[bin16]
16 CancelJobs map jobs:[bin16]
17 CancelReply map items:[u8]
18 Retry map job:bin16 new_id:bin16 watch:bool
19 RetryReply map item:SubmittedItem
20 StatusQuery map jobs:[bin16]
21 StatusReply map jobs:[JobStatus]
- JobStatus map id:bin16 found:bool kind:str job_class:u8 state:u8 priority:u8 model:str model_version:str label:str owner:str
    worker:str device:str code:str what:str reason:str on_preempt:str budget_min_mib:i64 budget_max_mib:i64 granted_mib:i64
    attempt:u32 failures:u32 losses:u32 preemptions:u32 retries:u32 submitted_ms:i64 started_ms:i64 ended_ms:i64 due_ms:i64
    deadline_ms:i64 ahead:u64 result_bytes:u32 result_blobs:[bin32] retry_of:bin16 after:[bin16] cancel_asked:bool
    checkpoint_step:u64 checkpoint:bin32 progress_step:u64 progress_total:u64 metrics:{float} last_lines:str held:bool evictions:u32
    leave_reason:str leave_for:bin16 durability:u8
22 ListQuery map state:str job_class:str kind:str active_only:bool after:bin16 limit:u32=100
23 ListReply map jobs:[JobStatus]
24 WorkersQuery map
25 WorkersReply map workers:[WorkerStatus]
- WorkerStatus map name:str host:str version:str state:str since_beat_ms:i64 labels:[str] kinds:[str] running:u32
    devices:[DeviceStatus]
- DeviceStatus map device:Device headroom_mib:i64 foreign_mib:i64 granted_mib:i64 free_mib:i64 holders:[str] warm:[str] state:str
    reserved:[str]
26 LogQuery map job:bin16 offset:u64 follow:bool model:str
27 LogReply map job:bin16 offset:u64 next:u64 end:bool
28 ModelPush map model:Model promote:bool=true
29 ModelRemove map name:str version:str
30 ModelReply map model:Model
31 ModelsQuery map
32 ModelsReply map models:[Model]
33 ResultQuery map job:bin16 child:bin16
34 ResultReply map item:NotifyItem
35 TopQuery map
36 TopReply map broker_version:str store:str space:str term:u64 uptime_ms:i64 by_class_and_state:[[u64]] submitted:u64 succeeded:u64
    failed:u64 lost:u64 stale:u64 assigned:u64 queued_bytes:u64 final_bytes:u64 broker_bytes:u64 commits:u64 commit_p50_ms:float
    commit_p99_ms:float jobs_per_commit_milli:u64 preempted:u64 evicted_models:u64 plans_made:u64 plans_expired:u64
    killed_at_deadline:u64 switches:[str]
37 Command map verb:str jobs:[bin16] target:str reason:str deadline_ms:i64
38 CommandReply map items:[CommandItem]
- CommandItem map ok:bool text:str code:str what:str next:str
39 UpdateJob map job:bin16 priority:?u8 deadline_ms:?i64 not_before_ms:?i64 timeout_ms:?i64 retries:?u32 job_class:?u8
    budget_min_mib:?i64 budget_max_mib:?i64 on_preempt:?u8 where:?[str]
40 ExplainQuery map job:bin16
41 ExplainReply map explanation:Explanation
- Explanation map job:bin16 state:u8 summary:str would_start:bool ahead:u64 never:bool places:[PlaceVerdict] places_looked_at:u64
    refusals:[RefusalCount] remedies:[Remedy]
- PlaceVerdict map worker:str host:str device:str index:u16 warm:bool constraint:str sentence:str lacking_mib:i64 until_ms:i64
- RefusalCount map constraint:str count:u64
- Remedy map kind:str text:str when_ms:i64 jobs:[bin16] budget_mib:i64
42 PlanSubmit map item:SubmitItem
43 PlanPolicy map text:str name:str
44 PlanPolicyReply map ok:bool code:str what:str next:str warnings:[str] stranded:[PlanChange] would_start:[PlanChange]
    would_wait:[PlanChange]
- PlanChange map job:bin16 text:str
45 ConfigQuery map reload:bool
46 ConfigReply map file:str loaded_ms:i64 settings:[ConfigSetting] warnings:[str]
- ConfigSetting map key:str value:str origin:str where:str
47 ModelCommand map verb:str name:str version:str condition:str
80 BlobPut map blob:bin32 total:u64 offset:u64 brief:bool near:str
81 BlobPutReply map blob:bin32 next:u64 complete:bool
82 BlobGet map blob:bin32 offset:u64 bytes_max:u32 near:bool
83 BlobGetReply map blob:bin32 total:u64 offset:u64 path:str
- JobBody map params:{str} argv:[str] env:{str} cwd:str parts:[Part] outputs:str cwd_identity:str per_device:bool
- ResultBody map values:{str} parts:[Part]
- Part map name:str media:str bytes:bin blob:bin32 blob_bytes:u64 share:str share_bytes:u64 share_mtime_ms:i64
"""
