"""What must be atomic on the board: one Lua script each. The keys are drawn in `redis.py`.

Times are Redis' own, in microseconds since 1970, so that workers' clocks need not agree.
"""

# Every script is given the job's id as ARGV[1], if it is about a job.
_PRELUDE = """
local DUE, TURNS, TURN = 'dvcr:due', 'dvcr:turns', 'dvcr:turn'
local function job_key(id) return 'dvcr:job:' .. id end
local function line_key(namespace) return 'dvcr:line:' .. namespace end
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
-- At its place in its namespace's line; a namespace that had none comes last among the namespaces.
local function line_up(id)
  local namespace, place = unpack(redis.call('HMGET', job_key(id), 'namespace', 'place'))
  if not place then return end
  redis.call('ZADD', line_key(namespace), place, id)
  redis.call('ZADD', TURNS, 'NX', redis.call('INCR', TURN), namespace)
end
local function leave_line(id)
  local namespace = redis.call('HGET', job_key(id), 'namespace')
  if namespace then
    redis.call('ZREM', line_key(namespace), id)
    if redis.call('ZCARD', line_key(namespace)) == 0 then redis.call('ZREM', TURNS, namespace) end
  end
end
-- Whose lease or wait has ended goes back in line.
local function line_up_due()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now())) do
    redis.call('ZREM', DUE, id)
    if redis.call('HDEL', job_key(id), 'owner') == 1 then redis.call('HINCRBY', job_key(id), 'crashes', 1) end
    line_up(id)
  end
end
-- Whether `owner` may speak for the job: nobody else has it, and it was neither finished nor forgotten. Where Redis
-- lost it, nobody has it.
local function may_speak(id, owner)
  local holder, finished, forgotten = unpack(redis.call('HMGET', job_key(id), 'owner', 'finished', 'forgotten'))
  return not finished and not forgotten and (not holder or holder == owner)
end
-- The figures as strings without exponent: they go beyond what `tostring` writes out.
local function raise(id, field, value)
  local reached = tonumber(redis.call('HGET', job_key(id), field) or '0')
  redis.call('HSET', job_key(id), field, string.format('%.0f', math.max(reached, value)))
end
local function record(id, progress, lifetime)
  local told = cjson.decode(progress)
  redis.call('HSET', job_key(id), 'progress', progress)
  raise(id, 'percent', told.percent)
  raise(id, 'fetched', told.fetched_bytes)
  raise(id, 'converted', told.converted_bytes)
  redis.call('EXPIRE', job_key(id), lifetime)
end
"""

# ARGV: id, job JSON, namespace, microseconds that it counts as having come later, progress JSON, lifetime
SUBMIT = (
    _PRELUDE
    + """
local id, key = ARGV[1], job_key(ARGV[1])
line_up_due()
redis.call('HDEL', key, 'finished', 'forgotten')
local known = redis.call('HEXISTS', key, 'job') == 1
redis.call('HSET', key, 'job', ARGV[2], 'namespace', ARGV[3])
redis.call('HSETNX', key, 'place', now() + ARGV[4])
if redis.call('HEXISTS', key, 'owner') == 0 and not (known and redis.call('ZSCORE', DUE, id)) then
  record(id, ARGV[5], ARGV[6])
  line_up(id)
end
"""
)

FORGET = (
    _PRELUDE
    + """
leave_line(ARGV[1])
redis.call('ZREM', DUE, ARGV[1])
redis.call('DEL', job_key(ARGV[1]))
redis.call('HSET', job_key(ARGV[1]), 'forgotten', 1)
redis.call('EXPIRE', job_key(ARGV[1]), ARGV[2])
"""
)

# ARGV: nothing, owner, microseconds
TAKE = (
    _PRELUDE
    + """
line_up_due()
while true do
  local namespace = redis.call('ZRANGE', TURNS, 0, 0)[1]
  if not namespace then return false end
  local id = redis.call('ZPOPMIN', line_key(namespace))[1]
  if redis.call('ZCARD', line_key(namespace)) == 0 then
    redis.call('ZREM', TURNS, namespace)
  else
    redis.call('ZADD', TURNS, redis.call('INCR', TURN), namespace)
  end
  local job = id and redis.call('HGET', job_key(id), 'job')
  if job then -- else it outlived its lifetime
    redis.call('HSET', job_key(id), 'owner', ARGV[2])
    redis.call('ZADD', DUE, now() + ARGV[3], id)
    local failures, crashes = unpack(redis.call('HMGET', job_key(id), 'failures', 'crashes'))
    return {job, failures or '0', crashes or '0'}
  end
end
"""
)

# ARGV: id, owner, microseconds, progress JSON, lifetime
RENEW = (
    _PRELUDE
    + """
if not may_speak(ARGV[1], ARGV[2]) then return 0 end
leave_line(ARGV[1])
redis.call('HSET', job_key(ARGV[1]), 'owner', ARGV[2])
redis.call('ZADD', DUE, now() + ARGV[3], ARGV[1])
record(ARGV[1], ARGV[4], ARGV[5])
return 1
"""
)

# ARGV: as above; the microseconds are the wait
POSTPONE = (
    _PRELUDE
    + """
if not may_speak(ARGV[1], ARGV[2]) then return 0 end
leave_line(ARGV[1])
redis.call('HDEL', job_key(ARGV[1]), 'owner')
redis.call('HINCRBY', job_key(ARGV[1]), 'failures', 1)
redis.call('ZADD', DUE, now() + ARGV[3], ARGV[1])
record(ARGV[1], ARGV[4], ARGV[5])
return 1
"""
)

# ARGV: as above; the microseconds are not used
FINISH = (
    _PRELUDE
    + """
if redis.call('HGET', job_key(ARGV[1]), 'finished') == ARGV[2] then return 1 end -- the first answer was lost
if not may_speak(ARGV[1], ARGV[2]) then return 0 end
leave_line(ARGV[1])
redis.call('ZREM', DUE, ARGV[1])
redis.call('HDEL', job_key(ARGV[1]), 'job', 'namespace', 'place', 'owner', 'failures', 'crashes')
redis.call('HSET', job_key(ARGV[1]), 'finished', ARGV[2])
record(ARGV[1], ARGV[4], ARGV[5])
return 1
"""
)

GIVE_BACK = (
    _PRELUDE
    + """
if redis.call('HGET', job_key(ARGV[1]), 'owner') == ARGV[2] then
  redis.call('HDEL', job_key(ARGV[1]), 'owner')
  redis.call('ZREM', DUE, ARGV[1])
  line_up(ARGV[1])
end
"""
)

IN_LINE = (
    _PRELUDE
    + """
line_up_due()
local count = 0
for _, namespace in ipairs(redis.call('ZRANGE', TURNS, 0, -1)) do
  count = count + redis.call('ZCARD', line_key(namespace))
end
return count
"""
)

UNFINISHED = IN_LINE.replace("return count", "return count + redis.call('ZCARD', DUE)")

# KEYS: the lease. ARGV: owner, milliseconds
LEASE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""

# KEYS: ticket, its lease. ARGV: ticket JSON, lifetime, owner. A closed ticket is empty, and stays closed.
UPDATE_TICKET = """
local stored, holder = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
if stored == '' or (holder and holder ~= ARGV[3]) then return 0 end
if stored then
  local state = cjson.decode(stored).state
  if state == 'Complete' or state == 'Failed' then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
