*** Settings ***
Documentation       What an operator can get wrong: the process says what, where and how to mend it, and ends with code 2.
Resource            resources/audit.resource
Test Setup          Start Afresh
Test Teardown       Clear Away


*** Test Cases ***
A Bad Setting Ends The Start With A Clear Message
    [Template]    The Start Should Fail
    batch_size=0             AUDIT_BATCH_SIZE = 0               at least 1
    on_full=explode          AUDIT_ON_FULL = 'explode'          block, raise, write_through, drop_newest, drop_oldest
    flush_intervall=1        AUDIT_FLUSH_INTERVALL        did you mean flush_interval
    ring_bytes=lots          AUDIT_RING_BYTES = 'lots'    whole number

A Ring Folder That Cannot Be Used Ends The Start With The Remedy
    ${file}=    Write File    occupied
    The Start Should Fail    ring_dir=${file}/rings    ring_dir    durability='memory'

Switched Off, The Same Application Writes Synchronously
    Set To    async=0
    ${ended}=    Run Application    --threads=2    --entries=20
    Should End Well    ${ended}
    ${file}=    Database File
    ${numbered}=    Query    ${file}    SELECT count(seq) FROM audit_log
    Should Be Equal As Integers    ${numbered}[0]    0
    Log Should Have Rows    40


*** Keywords ***
The Start Should Fail
    [Arguments]    ${setting}    @{words}
    Forget Settings
    ${settings}=    Evaluate    dict([$setting.split("=", 1)])
    Set To    &{settings}
    ${ended}=    Run Application    --entries=1
    Should Complain    ${ended}    @{words}
