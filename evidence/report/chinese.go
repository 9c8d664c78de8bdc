package report

// chinese holds every text of a report in Chinese.
var chinese = map[string]string{
	"Release %s": "发布 %s",
	"Promoted":   "已全量", "Promoted, and taken back since": "已全量，随后撤回",
	"All stages passed, and it was rolled back afterwards. Service is not yet confirmed as restored.":                           "全部阶段通过，随后已回滚，服务恢复尚未得到确认。",
	"All stages passed, and it was rolled back afterwards. All traffic is back on the version before it, verified by a replay.": "全部阶段通过，随后已回滚。全部流量已回到先前的版本，并经回放验证。",
	"Blocked": "已拦截", "Rolled back": "已回滚", "Aborted": "已中止", "Inconclusive": "无法判定", "In progress": "进行中",
	"pass": "通过", "fail": "未通过", "insufficient": "数据不足", "broken": "遥测异常",
	"%d ms": "%d 毫秒", "%.1f s": "%.1f 秒", "%.0f s": "%.0f 秒", "%d min %d s": "%d 分 %d 秒", "%d h %d min": "%d 小时 %d 分",
	"yes": "是", "no": "否",

	"All stages passed; the new version serves all traffic after %s.":                                                     "全部阶段通过，历时 %s，新版本已承接全部流量。",
	"Stopped at stage “%s”. No user request reached the new version.":                                                     "在“%s”阶段被拦截，没有任何用户请求到达新版本。",
	"Stopped at stage “%s”.":                                                                                              "在“%s”阶段停止。",
	"Failed at stage “%s”. All traffic is back on the stable version, verified by a replay.":                              "在“%s”阶段失败。全部流量已回到稳定版本，并经回放验证。",
	"Failed at stage “%s” and was rolled back. Service is not yet confirmed as restored.":                                 "在“%s”阶段失败并已回滚，服务恢复尚未得到确认。",
	"Ended by a person at stage “%s”.":                                                                                    "在“%s”阶段由人工终止。",
	"Ended at stage “%s” without a verdict on it.":                                                                        "在“%s”阶段结束，未对其作出判定。",
	"Now at stage “%s”.":                                                                                                  "当前处于“%s”阶段。",
	"%s is %s, the limit is %s%s":                                                                                         "%s 为 %s，门限为 %s%s",
	"Override: gate “%s” was let pass by %s until %s. Reason: %s":                                                         "人工放行：门禁“%s”由 %s 放行，有效期至 %s。理由：%s",
	"Gate “%s” was only declared; no evidence backs it.":                                                                  "门禁“%s”仅为声明，没有证据支持。",
	"Made %s UTC by %s. All times are UTC. The signed evidence is in the release's bundle; this page is a reading of it.": "生成于 %s（UTC），由 %s 生成。所有时间均为 UTC。经签名的证据在该发布的证据包中，本页仅为其可读形式。英文语句出自经签名的记录，保持原文。",

	"Gates passed": "通过的门禁", "%d of %d": "%d / %d", "Requests to the candidate": "候选版本请求数", "%s failed": "失败 %s",
	"no user saw it": "没有用户接触到", "Found after": "发现用时", "from the first bad answer": "自首个错误响应起", "Traffic back after": "流量切回用时",
	"from the trigger": "自触发起", "Restored after": "恢复用时", "from the trigger, replay included": "自触发起，含回放验证", "signed statements": "条签名声明",

	"Service": "服务", "Version": "版本", "Tenant": "租户", "Digest": "摘要", "Created": "创建时间", "Ended": "结束时间", "Source": "来源", "Link": "链接",
	"component:model_config": "模型配置", "component:retrieval_params": "检索参数", "component:workflow_version": "工作流版本", "component:release_version": "发布版本",

	"Stages": "阶段", "Stage": "阶段", "Verdict": "结论", "Started (UTC)": "开始时间（UTC）", "Duration": "用时", "What was found": "结果", "%s (attempt %d)": "%s（第 %d 次）",
	"not reached": "未到达", "running": "运行中",
	"stage:": "–", "stage:build": "构建", "stage:test": "测试", "stage:contract": "契约", "stage:replay": "回放", "stage:gate_d": "门禁 D", "stage:rollout": "放量",
	"stage:canary": "金丝雀", "stage:full": "全量", "stage:feedback": "反馈",

	"Gates": "门禁", "Gate": "门禁", "No gate has decided about this release.": "尚无门禁对该发布作出判定。",
	"Check": "检查项", "Value": "实测值", "Threshold": "门限", "Distance": "余量", "Samples": "样本数", "Measured from": "数据来源", "at least %s": "至少 %s",
	"query %d": "查询 %d", "must pass": "须通过", "accepted": "已接受",
	"Decided %s under rules %s": "判定于 %s，所用规则 %s",
	"gate:quality":              "质量", "gate:performance": "性能", "gate:security": "安全", "gate:cost": "成本", "gate:rollout": "放量", "gate:rollback": "回滚", "gate:ops": "运维",

	"Canary against stable": "金丝雀与稳定版本对比",
	"There was no canary: no user request was sent to the new version.":                                                    "没有进行金丝雀：没有用户请求被发往新版本。",
	"Over %s the stable version answered %s requests, of which %s failed (%s); the candidate %s, of which %s failed (%s).": "历时 %s，稳定版本应答 %s 个请求，失败 %s（%s）；候选版本应答 %s 个，失败 %s（%s）。",
	"Failed requests, trailing %d s": "失败请求占比（最近 %d 秒）",
	"The share of requests that failed, for the stable version and for the candidate, over the time of the canary.": "金丝雀期间稳定版本与候选版本的失败请求占比。",
	"Response time, 95th percentile": "响应时间（第 95 百分位）",
	"The time within which 95 of 100 requests were answered, for the stable version and for the candidate, over the time of the canary.": "金丝雀期间稳定版本与候选版本 95% 的请求得到应答所需的时间。",
	"Share of traffic to the candidate": "候选版本流量占比",
	"The share of user traffic that the candidate was allowed, over the time of the canary.":                                                  "金丝雀期间允许发往候选版本的用户流量占比。",
	"Evidence that the candidate is worse (e-value, logarithmic)":                                                                             "候选版本更差的证据（e 值，对数坐标）",
	"The e-value over the time of the canary. At %s, the dashed line, the canary fails; by chance it gets there with probability %s at most.": "金丝雀期间的 e 值。达到虚线 %s 时金丝雀失败；偶然达到的概率不超过 %s。",
	"stable": "稳定版本", "candidate": "候选版本", "share": "占比", "e-value": "e 值", "fails at %s": "%s 时失败", "rollback": "回滚",
	"The figures behind the pictures": "图中数据", "Share": "占比", "Stable requests": "稳定版本请求", "failed": "失败", "Candidate requests": "候选版本请求", "Stable p95": "稳定版本 p95", "Candidate p95": "候选版本 p95",
	"Every %d. of %d observations; the report as JSON has all of them.": "每 %d 个取 1 个，共 %d 个观测；JSON 报告中包含全部。",

	"Try again what is not done:": "重试未完成的步骤：", "Builds that may not be released again:": "被隔离、不能再次发布的构建：", "To take it back:": "撤回：", "To stop it now:": "立即停止：",
	"All releases": "所有发布", "%d queries": "%d 条查询",

	"Rollback": "回滚", "Triggered by gate “%s”.": "由门禁“%s”触发。", "What failed:": "失败原因：", "Read the story of one failed request": "查看一个失败请求的完整经过", "Moments": "时刻", "What": "事项", "When (UTC)": "时间（UTC）", "After the trigger": "触发后",
	"First bad answer to a user": "首个错误的用户响应", "Triggered": "触发", "All traffic on stable, read back": "全部流量回到稳定版本（已回读确认）",
	"Completed: every component back": "完成：所有组件已回退", "Restored: replay passed": "恢复：回放通过", "%s before": "提前 %s", "The limit is %s.": "时限为 %s。",
	"Components, in order": "组件（按执行顺序）", "Component": "组件", "Back to": "回退至", "Read back": "回读", "State": "状态",
	"step:": "–", "step:pending": "等待", "step:running": "执行中", "step:done": "完成", "step:unchanged": "未变更", "step:escalated": "已升级人工处理",
	"Replay %s: %s.": "回放 %s：%s。", "job:queued": "排队中", "job:running": "运行中", "job:succeeded": "成功", "job:failed": "失败", "job:": "–",

	"Readiness": "发布就绪评估", "Assessment %s on dataset %s.": "评估 %s，数据集 %s。", "Rests on": "依据", "Replay": "回放", "Failed checks: %s": "未通过项：%s",
	"Replays": "回放", "Run": "运行", "Purpose": "目的", "Sessions": "会话数", "Steps": "步骤数", "Failed": "失败数", "before release": "发布前", "after rollback": "回滚后",
	"Alerts": "告警", "Alert": "告警", "Severity": "级别", "Fired (UTC)": "触发时间（UTC）", "Acted on": "处置时间", "Resolved": "恢复时间", "What was done": "处置措施",
	"Decision trail": "决策轨迹", "Event": "事件", "Who, from where": "操作者及来源", "Why": "原因", "Nothing was recorded.": "没有记录。",
	"Evidence": "证据", "Log entry": "日志序号", "Statement": "声明", "Digest and files": "摘要与文件",
	"A statement's digest is the sha256 of its signed envelope, a file's that of its content.": "声明的摘要是其签名信封的 sha256，文件的摘要是其内容的 sha256。",
	"There is no evidence about this release.":                                                 "该发布没有证据。",
	"evidence:gate-decision": "门禁判定", "evidence:stage-result": "阶段结果", "evidence:canary-verdict": "金丝雀结论", "evidence:rollback": "回滚", "evidence:audit-event": "审计事件",
}

// english holds the texts of keys that are not English themselves.
var english = map[string]string{
	"component:model_config": "Model configuration", "component:retrieval_params": "Retrieval parameters",
	"component:workflow_version": "Workflow version", "component:release_version": "Release version",
	"stage:": "–", "stage:build": "Build", "stage:test": "Test", "stage:contract": "Contract", "stage:replay": "Replay", "stage:gate_d": "Gate D", "stage:rollout": "Rollout",
	"stage:canary": "Canary", "stage:full": "Full traffic", "stage:feedback": "Feedback",
	"gate:quality": "Quality", "gate:performance": "Performance", "gate:security": "Security", "gate:cost": "Cost", "gate:rollout": "Rollout", "gate:rollback": "Rollback", "gate:ops": "Operations",
	"step:": "–", "step:pending": "pending", "step:running": "running", "step:done": "done", "step:unchanged": "unchanged", "step:escalated": "escalated to a person",
	"job:": "–", "job:queued": "queued", "job:running": "running", "job:succeeded": "succeeded", "job:failed": "failed",
	"evidence:gate-decision": "gate decision", "evidence:stage-result": "stage result", "evidence:canary-verdict": "canary verdict", "evidence:rollback": "rollback", "evidence:audit-event": "audit event",
}
