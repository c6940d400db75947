-- Asks the identity provider whether a bearer token opens a mailbox. $url is filled in by the test bed.
local client
-- Dovecot's name for sending mail, and the provider's.
local services = {submission = "smtp"}

local function escape(text)
  return (text:gsub("[^%w%-_%.~]", function(char) return string.format("%%%02X", string.byte(char)) end))
end

function script_init()
  client = dovecot.http.client({timeout = 4000, max_attempts = 2})
  return 0
end

function script_deinit()
end

-- With XOAUTH2 and OAUTHBEARER the "password" is the token, and the user is the mailbox that it should open.
function auth_password_verify(request, token)
  local question = client:request({url = "$url", method = "POST"})
  question:add_header("Content-Type", "application/x-www-form-urlencoded")
  local service = services[request.service] or request.service
  question:set_payload("token=" .. escape(token) .. "&user=" .. escape(request.user) .. "&service=" .. escape(service))
  local answer = question:submit()
  if answer:status() ~= 200 then
    return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "the identity provider does not answer"
  end
  if answer:payload():find('"active":true', 1, true) then
    return dovecot.auth.PASSDB_RESULT_OK, {}
  end
  return dovecot.auth.PASSDB_RESULT_PASSWORD_MISMATCH, "token refused"
end

function auth_passdb_lookup(request)
  return dovecot.auth.PASSDB_RESULT_USER_UNKNOWN, "no such user"
end
