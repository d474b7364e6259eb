-- The records of the file, or the files, that the variable TRACE names, as a view for DuckDB: a column for each field of
-- ../events.md, NULL where a record has no such field. Times are UTC.
CREATE VIEW records AS
SELECT * FROM read_json(getenv('TRACE'), format = 'newline_delimited', maximum_object_size = 1048576, columns = {
  -- every record
  v: 'INTEGER', event: 'VARCHAR', "time": 'TIMESTAMP_NS', mono_ns: 'BIGINT',
  -- every record about a socket
  cookie: 'BIGINT', netns: 'BIGINT', family: 'VARCHAR',
  local_addr: 'VARCHAR', local_port: 'INTEGER', remote_addr: 'VARCHAR', remote_port: 'INTEGER',
  interface: 'BIGINT',
  -- start
  version: 'VARCHAR', kernel: 'VARCHAR', host: 'VARCHAR', boot_id: 'VARCHAR', sockets: 'BIGINT',
  sources: 'MAP(VARCHAR, STRUCT(in_use BOOLEAN, why_not VARCHAR))',
  -- transition, cleared
  old_state: 'VARCHAR', new_state: 'VARCHAR', stand_in: 'BOOLEAN', in_old_state_ms: 'DOUBLE',
  owner: 'STRUCT(pid BIGINT, fd BIGINT, comm VARCHAR, program VARCHAR, exe VARCHAR, uid BIGINT,
    cgroup VARCHAR, unit VARCHAR, container VARCHAR, pod VARCHAR)',
  owner_how: 'VARCHAR', how: 'VARCHAR', in_state_ms: 'DOUBLE',
  "by": 'STRUCT(pid BIGINT, fd BIGINT, comm VARCHAR, program VARCHAR, exe VARCHAR, uid BIGINT,
    cgroup VARCHAR, unit VARCHAR, container VARCHAR, pod VARCHAR)',
  -- stuck
  state: 'VARCHAR', threshold_ms: 'DOUBLE', age_ms: 'DOUBLE', age_max_ms: 'DOUBLE', exact: 'BOOLEAN',
  since: 'TIMESTAMP_NS', recv_queue: 'BIGINT', send_queue: 'BIGINT', cause: 'VARCHAR',
  owners: 'STRUCT(pid BIGINT, fd BIGINT, comm VARCHAR, program VARCHAR, exe VARCHAR, uid BIGINT,
    cgroup VARCHAR, unit VARCHAR, container VARCHAR, pod VARCHAR)[]',
  owners_total: 'BIGINT',
  origin: 'STRUCT(pid BIGINT, tid BIGINT, comm VARCHAR, how VARCHAR, "time" TIMESTAMP_NS)',
  listener: 'STRUCT(cookie BIGINT, local_addr VARCHAR, local_port INTEGER, backlog BIGINT, backlog_limit BIGINT)',
  peer: 'STRUCT(cookie BIGINT, netns BIGINT, state VARCHAR, owners STRUCT(pid BIGINT, fd BIGINT, comm VARCHAR)[],
    owners_total BIGINT, owner_how VARCHAR, gone BOOLEAN)',
  -- life
  opened: 'TIMESTAMP_NS', duration_ms: 'DOUBLE', "role": 'VARCHAR', states: 'MAP(VARCHAR, DOUBLE)',
  close_reason: 'VARCHAR', error: 'VARCHAR', bytes_sent: 'BIGINT', bytes_received: 'BIGINT', retransmits: 'BIGINT',
  rtt_us: 'BIGINT',
  -- process; stuck, lost and duration_ms are of summary too
  pid: 'BIGINT', comm: 'VARCHAR', program: 'VARCHAR', unit: 'VARCHAR', container: 'VARCHAR', pod: 'VARCHAR', stuck: 'BIGINT', shared: 'BIGINT', oldest_ms: 'DOUBLE', growth_per_min: 'DOUBLE', fds_open: 'BIGINT',
  fds_limit: 'BIGINT', fds_growth_per_min: 'DOUBLE', fds_full_in_s: 'DOUBLE',
  -- lost, resync, summary
  lost: 'BIGINT', lost_total: 'BIGINT', reason: 'VARCHAR', repaired: 'BIGINT', found: 'BIGINT',
  transitions: 'BIGINT', dropped: 'BIGINT', filtered: 'BIGINT', cleared: 'BIGINT', lives: 'BIGINT', resyncs: 'BIGINT'
});
